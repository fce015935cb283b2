//! The lines of a grading program: `<nonce> <text>`. Everything else on standard output is ignored.

use super::RunOutput;

/// The texts behind the nonce, in order.
pub(super) fn marked<'a>(output: &'a RunOutput, nonce: &str) -> Vec<&'a str> {
    let strip = |line: &'a str| line.strip_prefix(nonce).and_then(|rest| rest.strip_prefix(' '));
    output.stdout.lines().filter_map(strip).collect()
}
