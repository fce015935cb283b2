//! `execute_bash`: a command and the text that the model sees of it (specs 1.7).

use std::fmt::Write as _;
use std::time::Duration;

use super::call::BashRequest;
use super::profile::Profile;
use super::{ERROR_TRAILER, split};
use crate::environment::{Environment, EnvironmentError, LimitKind, ShellOutput};
use crate::harness::Seen;

/// Seconds for the question where the shell stands; it does next to nothing.
const PROBE_TIME: Duration = Duration::from_secs(10);
/// Asks for the working directory and the interpreter, a line each.
const PROBE: &str = "printf '%s\\n%s\\n' \"$PWD\" \"$(command -v python)\"";

/// What came of a command.
pub(super) struct BashResult {
    pub text: String,
    pub seen: Seen,
    pub limit: Option<LimitKind>,
}

pub(super) async fn run(
    profile: Profile,
    request: &BashRequest,
    environment: &mut dyn Environment,
    time: Duration,
) -> Result<BashResult, EnvironmentError> {
    if let Some(text) = nothing_runs(request) {
        let seen = Seen::Command { command: request.command.clone(), exit_code: -1 };
        return Ok(BashResult { text: text.to_owned(), seen, limit: None });
    }
    let commands = split::top_level(&request.command);
    if commands.len() > 1 {
        return Ok(refused(profile, &commands));
    }
    let output = match environment.exec(&request.command, time).await {
        Ok(output) => output,
        Err(EnvironmentError::Refused(reason)) => {
            let text = error_text(profile, &format!("ERROR: {reason}"));
            return Ok(BashResult { seen: Seen::Error(text.clone()), text, limit: None });
        }
        Err(error) => return Err(error),
    };
    let text = match profile {
        Profile::Compact => bare(&output),
        Profile::OpenHands024 | Profile::OpenHands028 => {
            let place = place(&output, environment).await?;
            assembled(&output, &place, time)
        }
    };
    let exit_code = output.exit_code.unwrap_or(-1);
    Ok(BashResult {
        text: truncate(&text, profile.observation_chars_max()),
        seen: Seen::Command { command: request.command.clone(), exit_code },
        limit: output.limit,
    })
}

/// A poll, or input to a program: a command that ran out of its time was ended, so no program ever runs on.
fn nothing_runs(request: &BashRequest) -> Option<&'static str> {
    let command = request.command.trim();
    if command.is_empty() {
        return Some("ERROR: No previous running command to retrieve logs from.");
    }
    let is_control_key = matches!(command, "C-c" | "C-d" | "C-z");
    (request.is_input || is_control_key).then_some("ERROR: No previous running command to interact with.")
}

fn refused(profile: Profile, commands: &[&str]) -> BashResult {
    let mut text =
        "ERROR: Cannot execute multiple commands at once.\nSend each command on its own, or join them with && or ;\nCommands found:"
            .to_owned();
    for (index, command) in commands.iter().enumerate() {
        let _ = write!(text, "\n({}) {command}", index + 1);
    }
    let text = error_text(profile, &truncate(&text, profile.observation_chars_max()));
    BashResult { seen: Seen::Error(text.clone()), text, limit: None }
}

fn error_text(profile: Profile, text: &str) -> String {
    if profile.is_compact() { text.to_owned() } else { format!("{text}{ERROR_TRAILER}") }
}

/// Where the shell stands.
#[derive(Default)]
struct Place {
    cwd: String,
    python: String,
}

async fn place(output: &ShellOutput, environment: &mut dyn Environment) -> Result<Place, EnvironmentError> {
    if let Some(cwd) = &output.cwd {
        return Ok(Place { cwd: cwd.clone(), python: String::new() });
    }
    match environment.exec(PROBE, PROBE_TIME).await {
        Ok(answer) => {
            let mut lines = answer.output.lines().map(|line| line.trim().to_owned());
            Ok(Place { cwd: lines.next().unwrap_or_default(), python: lines.next().unwrap_or_default() })
        }
        Err(EnvironmentError::Refused(_)) => Ok(Place::default()),
        Err(error) => Err(error),
    }
}

/// The observation of 0.24 and later; the exit code stands in it twice, as it does there.
fn assembled(output: &ShellOutput, place: &Place, time: Duration) -> String {
    let mut text = output.output.trim_end().to_owned();
    // Writing to a String cannot fail.
    let _ = match output.exit_code {
        Some(code) if !output.timed_out => write!(text, "\n[The command completed with exit code {code}.]"),
        _ => write!(
            text,
            "\n[The command timed out after {} seconds. It and everything it had started was ended.]",
            time.as_secs()
        ),
    };
    for (label, value) in [("Current working directory", &place.cwd), ("Python interpreter", &place.python)] {
        if !value.is_empty() {
            let _ = write!(text, "\n[{label}: {value}]");
        }
    }
    if let (Some(code), false) = (output.exit_code, output.timed_out) {
        let _ = write!(text, "\n[Command finished with exit code {code}]");
    }
    text
}

/// Output, and the exit code where it is not 0.
fn bare(output: &ShellOutput) -> String {
    let text = output.output.trim_end();
    let trailer = match output.exit_code {
        Some(0) if !output.timed_out && text.is_empty() => "ok".to_owned(),
        Some(0) if !output.timed_out => String::new(),
        Some(code) if !output.timed_out => format!("[exit {code}]"),
        _ => "[timed out]".to_owned(),
    };
    let newline = if text.is_empty() || trailer.is_empty() { "" } else { "\n" };
    format!("{text}{newline}{trailer}")
}

/// Keeps the first and the last half of `chars_max` characters.
pub(super) fn truncate(text: &str, chars_max: usize) -> String {
    let count = text.chars().count();
    if count <= chars_max {
        return text.to_owned();
    }
    let half = chars_max / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(count - half).collect();
    format!("{head}\n[... Observation truncated due to length ...]\n{tail}")
}
