//! Generated texts as token examples, dealt out step by step.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sealign_base::Text;
use sealign_batch::conversation::{EncodeError, Encoder};
use sealign_batch::order::shuffled;
use sealign_batch::{ChatFormat, Encoded, MaskMode, Message, Tokenizer};
use sealign_trajectory::Role;

use crate::train::data::Example;

/// Encodes texts; those longer than `context` are left out.
pub fn encode(
    tokenizer: &Tokenizer,
    format: &ChatFormat,
    texts: &[Text],
    context: usize,
) -> Result<Vec<Example>, EncodeError> {
    let mut examples = Vec::with_capacity(texts.len());
    for text in texts {
        let last = text.messages.len().saturating_sub(1);
        let messages: Vec<Message> = text
            .messages
            .iter()
            .enumerate()
            .map(|(index, message)| {
                let learnt = !text.last_only || index == last;
                Message::new(role(message.role), message.content.clone())
                    .with_weight(f32::from(u8::from(learnt)))
            })
            .collect();
        let mask = if text.last_only { MaskMode::Assistant } else { MaskMode::All };
        let encoded = Encoder { tokenizer, format, mask }.conversation(&messages)?;
        if encoded.ids.len() <= context {
            examples.push(Example::Trajectory(encoded));
        }
    }
    Ok(examples)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::User | Role::Tool => "user",
    }
}

/// One optimiser step of copying drills: random sequences, each said twice, of which the repetition is learnt.
pub fn drills(seed: u64, step: u64, tokens: usize, vocabulary: usize) -> Vec<Example> {
    /// Shortest and longest half: from a name to a small file.
    const HALF: std::ops::Range<usize> = 10..120;
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(step);
    let mut examples = Vec::new();
    let mut dealt = 0;
    while dealt < tokens {
        let half = generator.random_range(HALF);
        let said: Vec<u32> = (0..half)
            .map(|_| u32::try_from(generator.random_range(3..vocabulary)).unwrap_or(u32::MAX))
            .collect();
        let ids = [said.as_slice(), said.as_slice()].concat();
        // The first token of the repetition follows from nothing.
        let weights = (0..ids.len()).map(|index| f32::from(u8::from(index > half))).collect();
        dealt += ids.len();
        examples.push(Example::Trajectory(Encoded { ids, weights, turn_ends: Vec::new() }));
    }
    examples
}

/// Deals examples out in a seeded random order that is drawn anew every time all have been dealt.
#[derive(Debug)]
pub struct Deck<'examples> {
    examples: &'examples [Example],
    seed: u64,
    epoch: u64,
    order: Vec<usize>,
}

impl<'examples> Deck<'examples> {
    /// A deck of `examples`.
    pub fn new(examples: &'examples [Example], seed: u64) -> Self {
        Self { examples, seed, epoch: 0, order: Vec::new() }
    }

    /// Examples of about `tokens` tokens together; none when the deck is empty.
    pub fn deal(&mut self, tokens: usize) -> Vec<&'examples Example> {
        let mut hand = Vec::new();
        let mut dealt = 0;
        while dealt < tokens && !self.examples.is_empty() {
            if self.order.is_empty() {
                self.order = shuffled(self.seed, self.epoch, self.examples.len());
                self.epoch += 1;
            }
            let Some(example) = self.order.pop().and_then(|index| self.examples.get(index)) else { break };
            dealt += example.tokens();
            hand.push(example);
        }
        hand
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(token: u32) -> Example {
        Example::Trajectory(Encoded { ids: vec![token; 10], weights: vec![1.0; 10], turn_ends: Vec::new() })
    }

    #[test]
    fn a_deck_deals_every_example_before_any_twice() {
        let examples: Vec<Example> = (0..7).map(example).collect();
        let mut deck = Deck::new(&examples, 3);
        let mut seen: Vec<u32> =
            deck.deal(70).iter().filter_map(|e| e.sequences().next()?.ids.first().copied()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..7).collect::<Vec<_>>());
        assert_eq!(deck.deal(25).len(), 3);
    }

    #[test]
    fn a_drill_says_everything_twice_and_differs_from_step_to_step() {
        let first = drills(1, 0, 3000, 1024);
        for example in &first {
            let encoded = example.sequences().next().unwrap();
            let (said, repeated) = encoded.ids.split_at(encoded.ids.len() / 2);
            assert_eq!(said, repeated);
        }
        let ids = |examples: &[Example]| examples[0].sequences().next().unwrap().ids.clone();
        assert_eq!(ids(&first), ids(&drills(1, 0, 3000, 1024)));
        assert_ne!(ids(&first), ids(&drills(1, 1, 3000, 1024)));
    }
}
