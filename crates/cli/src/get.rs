//! `sealign get`: the objects of a run, as `kubectl get` would show them. It may look while the run goes on.

use std::process::ExitCode;

use jiff::Timestamp;
use sealign_reconcile::port::Kind;
use serde_json::{Value, json};

use crate::arguments::GetArguments;
use crate::columns::{as_value, columns, kind_of};
use crate::error::CliError;
use crate::output::{Format, print, print_json, table, tell};
use crate::state;

/// Shows objects.
///
/// # Errors
/// [`CliError::Argument`] for a kind or name that is not there.
pub fn run(arguments: &GetArguments) -> Result<ExitCode, CliError> {
    let state = state::existing(arguments.state.as_deref())?;
    let kinds = match &arguments.kind {
        None => Kind::OURS.to_vec(),
        Some(text) => vec![kind_of(text).ok_or_else(|| unknown_kind(text))?],
    };
    let mut objects = state::objects(&state)?;
    objects.retain(|(key, _)| {
        kinds.contains(&key.kind) && arguments.name.as_ref().is_none_or(|name| *name == key.name)
    });
    if let (Some(name), true) = (&arguments.name, objects.is_empty()) {
        let kind = kinds.first().map_or("object", |kind| kind.name());
        return Err(CliError::Argument(format!("NAME: there is no {kind} `{name}` in {}", state.display())));
    }
    if arguments.output == Format::Json {
        let items: Vec<Value> = objects.iter().map(|(_, object)| as_value(object)).collect();
        print_json(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = Timestamp::now();
    let mut tables = Vec::new();
    for kind in kinds {
        let columns = columns(kind, arguments.wide);
        let of_kind = objects.iter().filter(|(key, _)| key.kind == kind);
        let rows: Vec<Vec<String>> = of_kind
            .map(|(key, object)| {
                let value = as_value(object);
                let name = format!("{}/{}", kind.name().to_lowercase(), key.name);
                std::iter::once(name).chain(columns.iter().map(|column| column.cell(&value, now))).collect()
            })
            .collect();
        if !rows.is_empty() {
            let names: Vec<String> = columns.iter().map(|column| column.name.to_uppercase()).collect();
            let header: Vec<&str> = std::iter::once("NAME").chain(names.iter().map(String::as_str)).collect();
            tables.push(table(&header, rows));
        }
    }
    if tables.is_empty() {
        tell(&format!("no objects in {}", state.display()));
    } else {
        print(&tables.join("\n\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn unknown_kind(text: &str) -> CliError {
    let known = Kind::OURS.map(|kind| format!("{} ({})", kind.plural(), kind.short())).join(", ");
    CliError::Argument(format!("KIND: `{text}` is not a kind; use one of {known}"))
}
