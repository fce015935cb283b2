//! A thread that spawns sandboxes. `--die-with-parent` means the parent *thread*: a sandbox spawned from a pool's thread would be
//! killed when the pool retires that thread. One thread that lives as long as its owner has no such surprise.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

type Order = (Command, Sender<io::Result<Child>>);

/// Spawns commands on one lasting thread. Dropping it kills the sandboxes it spawned.
#[derive(Debug)]
pub struct Spawner {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (orders, received) = channel();
        let thread =
            std::thread::Builder::new().name("sandbox-spawner".to_owned()).spawn(move || serve(&received))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Spawns `command` there; takes a few milliseconds.
    pub fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the spawner's thread has ended");
        let (answer, answered) = channel();
        self.orders.as_ref().ok_or_else(gone)?.send((command, answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported where it happened; the children are dead either way.
            let _ended = thread.join();
        }
    }
}

fn serve(received: &Receiver<Order>) {
    while let Ok((mut command, answer)) = received.recv() {
        // An asker that left wanted no child: dropping the answer would leak it, and it dies with this thread.
        let _gone = answer.send(command.spawn());
    }
}
