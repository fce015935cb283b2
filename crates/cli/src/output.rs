//! Printing results.

use std::io::Write as _;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::CliError;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Prints lines for people. A reader that has gone away (`| head`) is no error.
pub fn print(text: &str) {
    let _closed = writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n'));
}

/// Prints one JSON document.
///
/// # Errors
/// [`CliError::Json`].
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a line for people who watch.
pub fn tell(text: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{text}");
}

/// A table without frames, as `kubectl` prints it.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stands_at_the_margin_and_leaves_nothing_behind() {
        let text = table(&["A", "LONG"], vec![vec!["value".into(), String::new()]]);
        assert_eq!(text, "A      LONG\nvalue");
    }
}
