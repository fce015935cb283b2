//! The messages before the first turn: function list, call format, worked example (specs 1.5 and 1.6).

use std::fmt::Write as _;

use sealign_manifest::Task;
use sealign_trajectory::{Message, Role};

use super::profile::{Profile, Templates};
use super::tools::{Tool, tools};
use crate::harness::template::{TemplateError, fill};

const EXAMPLE_OPENING: &str = "Here's a running example of how to perform a task with the provided tools.\n\n\
     --------------------- START OF EXAMPLE ---------------------\n\n";
const EXAMPLE_CLOSING: &str = "\n\n--------------------- END OF EXAMPLE ---------------------\n\n\
     The environment is NOT the one of the example: assume nothing of what it shows, and call only the functions listed above.\n\n\
     --------------------- NEW TASK DESCRIPTION ---------------------\n";
const TASK_CLOSING: &str = "\n--------------------- END OF NEW TASK DESCRIPTION ---------------------\n\n\
     PLEASE follow the format strictly, with exactly one function call in each message.\n";

const FORMAT: &str = "If you call a function, answer in the following format and write nothing after it:\n\n\
     <function=example_function_name>\n\
     <parameter=example_parameter_1>value_1</parameter>\n\
     <parameter=example_parameter_2>\n\
     This is the value of the second parameter.\n\
     It can have\n\
     several lines.\n\
     </parameter>\n\
     </function>\n\n\
     <IMPORTANT>\n\
     Reminder:\n\
     - A function call MUST follow the given format: it starts with <function= and ends with </function>.\n\
     - Required parameters MUST be given.\n\
     - Call only one function at a time.\n\
     - You MAY reason in plain language before the function call, but NOT after it.\n\
     - When no function is needed, answer the question as usual from what you know, and do not mention function calls.\n\
     </IMPORTANT>\n";

/// The prompt of a task.
pub(super) fn messages(
    profile: Profile,
    templates: &Templates,
    task: &Task,
) -> Result<Vec<Message>, TemplateError> {
    let functions = functions(tools(profile));
    let system = fill("system", &templates.system, &[("functions", &functions)])?;
    let workdir = &task.environment.workdir;
    let user = fill("task", &templates.task, &[("workdir", workdir), ("problem", &task.problem_statement)])?;
    let user = if templates.example.is_empty() {
        user
    } else {
        format!("{EXAMPLE_OPENING}{}{EXAMPLE_CLOSING}{user}{TASK_CLOSING}", templates.example)
    };
    let mut messages = vec![Message { role: Role::User, content: user }];
    if !system.is_empty() {
        messages.insert(0, Message { role: Role::System, content: system });
    }
    Ok(messages)
}

/// The suffix of the system message: what can be called, and how.
pub fn functions(tools: &[Tool]) -> String {
    let mut out = "\nYou have access to the following functions:\n\n".to_owned();
    for (index, tool) in tools.iter().enumerate() {
        describe(&mut out, index + 1, tool);
    }
    out.push('\n');
    out.push_str(FORMAT);
    out
}

fn describe(out: &mut String, number: usize, tool: &Tool) {
    // Writing to a String cannot fail.
    let _ =
        writeln!(out, "---- BEGIN FUNCTION #{number}: {} ----\nDescription: {}", tool.name, tool.description);
    if tool.arguments.is_empty() {
        out.push_str("No parameters are required for this function.\n");
    } else {
        out.push_str("Parameters:\n");
    }
    for (index, argument) in tool.arguments.iter().enumerate() {
        let need = if argument.is_required { "required" } else { "optional" };
        let (name, kind, description) = (argument.name, argument.kind.name(), argument.description);
        let _ = writeln!(out, "  ({}) {name} ({kind}, {need}): {description}", index + 1);
        if !argument.allowed.is_empty() {
            let allowed: Vec<String> = argument.allowed.iter().map(|value| format!("`{value}`")).collect();
            let _ = writeln!(out, "Allowed values: [{}]", allowed.join(", "));
        }
    }
    let _ = writeln!(out, "---- END FUNCTION #{number} ----");
}
