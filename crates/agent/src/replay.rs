//! Taking recorded actions again, for an attempt that starts at a node of a forest.

use std::time::Duration;

use sealign_trajectory::Action;
use sealign_trajectory::Turn;
use sealign_trajectory::observe::Normaliser;
use sealign_trajectory::protocol::render_call;

use crate::environment::{Environment, EnvironmentError};
use crate::harness::{Reaction, Session};
use crate::model::{Completion, FinishReason};

/// The prefix of a node.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'record> {
    /// The turns of one rollout through the node, from the first to the node's own.
    pub turns: &'record [Turn],
    /// Says which observations are the same.
    pub normaliser: &'record Normaliser,
}

/// A turn that was taken again.
pub(crate) enum ReplayedTurn {
    /// With the same observation.
    Same(Reaction),
    /// With another one: what follows would not be an attempt from that node.
    Diverged(Reaction),
}

impl Replay<'_> {
    pub(crate) async fn take(
        &self,
        recorded: &Turn,
        session: &mut dyn Session,
        environment: &mut dyn Environment,
        command_time: Duration,
    ) -> Result<ReplayedTurn, EnvironmentError> {
        let completion = Completion {
            text: recorded_text(recorded),
            finish: FinishReason::Stop,
            usage: sealign_manifest::record::Usage::default(),
            waited: Duration::ZERO,
        };
        let reaction = session.react(&completion, environment, command_time).await?;
        let before = self.normaliser.observation(recorded.observation.as_deref());
        let now = self.normaliser.observation(reaction.observation.as_deref());
        Ok(if before == now { ReplayedTurn::Same(reaction) } else { ReplayedTurn::Diverged(reaction) })
    }
}

/// What the model had said: its own words where they are known, else the call written again.
fn recorded_text(turn: &Turn) -> String {
    if let Some(raw) = &turn.raw {
        return raw.clone();
    }
    match &turn.action {
        Action::Calls { calls } => {
            let calls: Vec<String> = calls.iter().map(render_call).collect();
            format!("{}\n\n{}", turn.free_text, calls.join("\n")).trim_start().to_owned()
        }
        Action::Message => turn.free_text.clone(),
        Action::Invalid { text, .. } => text.clone(),
    }
}
