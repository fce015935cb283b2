//! What goes wrong at the runner's ports, where, and who dies of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long the store is away: less than the runner's patience with a store that repeats nothing itself.
const AWAY: Duration = Duration::from_mins(3);

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The runner dies before the call.
    CrashBefore,
    /// The runner dies after it was carried out.
    CrashAfter,
    /// The runner dies, and its write arrives when the next runner has long begun.
    CrashLate,
    /// The call has no effect and gets no answer: a refusal for now, a conflict, a reset.
    Lost,
    /// The call is carried out, and its answer is lost.
    ReplyLost,
    /// Another writer of the same bytes is first.
    Raced,
    /// The answer takes its time.
    Slow,
    /// No answer within the caller's patience, and no effect.
    TimedOut,
    /// The store is away for three minutes.
    Away,
    /// Another runner begins beside this one: its node was given up too early.
    Twin,
    /// The pod is evicted, for the node's sake.
    Evicted,
    /// The pod is killed for its own memory.
    OutOfMemory,
    /// The server ends with an error.
    Ended,
    /// The pod is deleted and nobody says why.
    Vanished,
    /// The pods cannot be listed.
    Unlisted,
    /// The list is an older one.
    Stale,
}

impl Fault {
    const ALL: [Self; 16] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::CrashLate,
        Self::Lost,
        Self::ReplyLost,
        Self::Raced,
        Self::Slow,
        Self::TimedOut,
        Self::Away,
        Self::Twin,
        Self::Evicted,
        Self::OutOfMemory,
        Self::Ended,
        Self::Vanished,
        Self::Unlisted,
        Self::Stale,
    ];
    /// At reads of the store. It is strongly consistent: it has no past to answer with.
    pub const OF_READS: [Self; 5] = [Self::CrashBefore, Self::Lost, Self::Slow, Self::Away, Self::Twin];
    /// At writes to the store.
    pub const OF_WRITES: [Self; 9] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::CrashLate,
        Self::Lost,
        Self::ReplyLost,
        Self::Raced,
        Self::Slow,
        Self::Away,
        Self::Twin,
    ];
    /// At requests to sandboxes.
    pub const OF_DOORS: [Self; 11] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::Lost,
        Self::ReplyLost,
        Self::Slow,
        Self::TimedOut,
        Self::Twin,
        Self::Evicted,
        Self::OutOfMemory,
        Self::Ended,
        Self::Vanished,
    ];
    /// At looks at the pods.
    pub const OF_LISTS: [Self; 2] = [Self::Unlisted, Self::Stale];

    pub fn is_crash(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter | Self::CrashLate)
    }
}

/// What becomes of a pod before anybody claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It never gets a node.
    Unschedulable,
    /// Its image cannot be pulled.
    NoImage,
    /// It is preempted at once.
    Preempted,
    /// It waits, and nobody says for what.
    Waits,
}

impl Start {
    pub const ALL: [Self; 4] = [Self::Unschedulable, Self::NoImage, Self::Preempted, Self::Waits];
}

/// Where faults strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Store,
    Door,
    Pods,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    At(Port, u64, Fault),
    Pod(u64, Start),
}

/// Everything that goes wrong in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Trouble>);

impl Plan {
    pub fn start(&self, pod: u64) -> Option<Start> {
        self.0.iter().find_map(|trouble| match trouble {
            Trouble::Pod(number, start) if *number == pod => Some(*start),
            _ => None,
        })
    }

    pub fn counts(&self, fault: Fault) -> usize {
        self.0.iter().filter(|trouble| matches!(trouble, Trouble::At(_, _, found) if *found == fault)).count()
    }

    fn at(&self, port: Port, call: u64) -> Option<Fault> {
        self.0.iter().find_map(|trouble| match trouble {
            Trouble::At(there, number, fault) if (*there, *number) == (port, call) => Some(*fault),
            _ => None,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self
            .0
            .iter()
            .map(|trouble| match trouble {
                Trouble::At(port, call, fault) => format!("{port:?}:{call}:{fault:?}"),
                Trouble::Pod(number, start) => format!("Start:{number}:{start:?}"),
            })
            .collect();
        formatter.write_str(&texts.join(","))
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trouble = |text: &str| {
            let mut parts = text.split(':');
            let (port, number, what) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
            if port == "Start" {
                let start = Start::ALL.into_iter().find(|start| format!("{start:?}") == what)?;
                return Some(Trouble::Pod(number, start));
            }
            let all = [Port::Store, Port::Door, Port::Pods];
            let port = all.into_iter().find(|found| format!("{found:?}") == port)?;
            let fault = Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == what)?;
            Some(Trouble::At(port, number, fault))
        };
        let troubles = text.split(',').filter(|text| !text.is_empty());
        troubles
            .map(|text| trouble(text).ok_or_else(|| format!("`{text}` is no trouble")))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Counts the calls of all runners and says which of them go wrong.
#[derive(Default)]
pub struct Switch {
    plan: Plan,
    counts: Mutex<[u64; 3]>,
    away: Mutex<Option<Instant>>,
    /// Rung when another runner is to begin.
    pub twin: Notify,
}

impl Switch {
    pub fn new(plan: Plan) -> Self {
        Self { plan, ..Self::default() }
    }

    pub fn calls(&self, port: Port) -> u64 {
        self.counts.lock().unwrap()[port as usize]
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn next(&self, port: Port) -> Option<Fault> {
        let call = &mut self.counts.lock().unwrap()[port as usize];
        *call += 1;
        self.plan.at(port, *call - 1)
    }

    /// Whether the store is away; `from_now` sends it away.
    pub fn is_away(&self, from_now: bool) -> bool {
        let mut away = self.away.lock().unwrap();
        if from_now {
            *away = Some(Instant::now() + AWAY);
        }
        away.is_some_and(|until| Instant::now() < until)
    }
}

/// One process of the runner. Its ports work as long as it lives.
#[derive(Default)]
pub struct Life {
    is_dead: AtomicBool,
    /// Rung when it dies.
    pub death: Notify,
}

/// What the ports of one process share.
#[derive(Clone)]
pub struct Process {
    pub switch: Arc<Switch>,
    pub life: Arc<Life>,
}

impl Process {
    pub fn of(switch: Arc<Switch>) -> Self {
        Self { switch, life: Arc::default() }
    }

    /// Begins a call: what goes wrong with it. A dead process gets no further.
    pub async fn call(&self, port: Port) -> Option<Fault> {
        if self.life.is_dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let fault = self.switch.next(port);
        match fault {
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::Twin) => self.switch.twin.notify_one(),
            _ => {}
        }
        fault
    }

    /// The end of the process: whoever drives it drops everything.
    pub async fn die<T>(&self) -> T {
        self.life.is_dead.store(true, Ordering::Relaxed);
        self.life.death.notify_one();
        std::future::pending().await
    }
}
