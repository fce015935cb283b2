//! The tokenizer of a base model: a small byte-level BPE whose pieces suit code and the text call protocol.
//!
//! Markup is one token, a newline with the indent after it is one token (so that a line starts with the same token in a
//! file and where it is quoted), names are word pieces, digits are single.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer, models::TrainerWrapper};

/// Pieces that merges never cross.
const PIECES: &str =
    concat!(r"</?(?:function|parameter)[^>\n]*>", r"|\n *| ?[A-Za-z]+|_|\d| ?[^\sA-Za-z\d_]+|\s+");

/// Tokens that no text can spell: turns begin and end with them.
pub const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Why no tokenizer could be made.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// The tokenizer library refused.
    #[error("the tokenizer could not be trained: {0}")]
    Train(String),
    /// The texts have too little variety.
    #[error("the texts give {found} tokens, the model needs {wanted}: use more data")]
    TooSmall {
        /// Tokens found.
        found: usize,
        /// Tokens wanted.
        wanted: usize,
    },
}

/// Trains a tokenizer of exactly `size` tokens on `texts` and returns its `tokenizer.json`.
pub fn train<'text>(
    texts: impl Iterator<Item = &'text str> + Send,
    size: usize,
) -> Result<String, VocabularyError> {
    let library = |error: tokenizers::Error| VocabularyError::Train(error.to_string());
    let special: Vec<AddedToken> = SPECIAL.iter().map(|text| AddedToken::from(*text, true)).collect();
    let bpe = BpeTrainer::builder()
        .vocab_size(size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special)
        .build();
    let pieces = Split::new(SplitPattern::Regex(PIECES.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .map_err(library)?;
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(pieces),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    tokenizer.with_decoder(Some(bytes));
    let mut trainer = TrainerWrapper::BpeTrainer(bpe);
    tokenizer.train(&mut trainer, texts).map_err(library)?;
    let found = tokenizer.get_vocab_size(true);
    if found != size {
        return Err(VocabularyError::TooSmall { found, wanted: size });
    }
    tokenizer.to_string(false).map_err(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus() -> Vec<String> {
        (0..400)
            .map(|n| {
                let word = ["total", "limit", "score", "ledger"][n % 4];
                format!(
                    "<function=execute_bash>\n<parameter=command>cat {word}_{n}.py</parameter>\n</function>\n\
                     def {word}_{n}(left, right):\n    return left + {n}\n"
                )
            })
            .collect()
    }

    #[test]
    fn markup_is_one_token_and_digits_are_single() {
        let texts = corpus();
        let json = train(texts.iter().map(String::as_str), 330).unwrap();
        let tokenizer = Tokenizer::from_bytes(json.as_bytes()).unwrap();
        let tokens = tokenizer.encode("<parameter=command>cat limit_17.py</parameter>", false).unwrap();
        let tokens = tokens.get_tokens();
        assert_eq!(tokens.first().map(String::as_str), Some("<parameter=command>"));
        assert!(tokens.contains(&"1".to_owned()) && tokens.contains(&"7".to_owned()), "{tokens:?}");
    }

    #[test]
    fn any_text_comes_back_and_training_twice_gives_the_same_bytes() {
        let texts = corpus();
        let json = train(texts.iter().map(String::as_str), 330).unwrap();
        assert_eq!(json, train(texts.iter().map(String::as_str), 330).unwrap());
        let tokenizer = Tokenizer::from_bytes(json.as_bytes()).unwrap();
        let text = "  naïve\t\"quote\"\r\n\n    return 42 € <|im_end|> x";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
    }

    #[test]
    fn too_little_text_is_an_error_that_says_so() {
        let error = train(["ab"].into_iter(), 1024).unwrap_err().to_string();
        assert!(error.contains("use more data"), "{error}");
    }
}
