//! The server that runs inside a sandbox as its first process, and the protocol it speaks.
//!
//! What it is for: a runner outside drives hostile task code through one small program that is PID 1 of the
//! sandbox. The program runs commands, moves files, tells what changed, and enforces limits at the source.
//! It does not know tasks, models, grading or the cluster, it holds no secret, and it decides no verdict.
//!
//! Where to start: [`protocol`] for the requests, [`signing`] for who may send them, [`client`] to call a server
//! from a runner, [`server`] for the process itself. The other modules are the server's organs: [`shell`] (the one
//! persistent shell), [`isolated`] (a program apart from it), [`files`] and [`tree`] (the task root), [`limits`] and
//! [`watch`] (what a task may use, and the evidence that it hit a limit), [`confine`] and [`os`] (what children get).

pub mod base64;
pub mod client;
pub mod confine;
pub mod files;
pub mod http;
pub mod isolated;
pub mod launcher;
pub mod life;
pub mod limits;
pub mod os;
pub mod output;
pub mod processes;
pub mod protocol;
pub mod server;
pub mod shell;
pub mod signing;
pub mod tree;
pub mod watch;
