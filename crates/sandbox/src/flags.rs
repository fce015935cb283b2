//! The command line, `--name VALUE` or `--name=VALUE`. Written by hand because an argument parser would be the program's
//! largest dependency.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use sealign_sandbox::limits::Limits;
use sealign_sandbox::protocol::LimitMeans;
use sealign_sandbox::server::{Config, Listener};
use sealign_sandbox::shell::find_program;
use sealign_sandbox::{life, os};

/// Silence after the claim that ends the sandbox: four pings.
const SILENCE_DEFAULT: Duration = Duration::from_mins(1);

/// What task code's environment holds unless `--env` says otherwise: nothing that differs between two runs.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("PYTHONHASHSEED", "0"),
];

/// Where to listen.
enum Door {
    Socket(PathBuf),
    Address(SocketAddr),
    Descriptor(i32),
}

/// The parsed command line.
pub struct Flags {
    door: Door,
    life: Option<i32>,
    /// How to serve.
    pub config: Config,
}

impl Flags {
    /// Ties the server's life to that of whoever passed the line, where there is one.
    pub fn hold_line(&self) -> io::Result<()> {
        self.life.map_or(Ok(()), |number| life::end_with(os::inherited(number)?))
    }

    /// Opens the door.
    pub fn listener(&self) -> io::Result<Listener> {
        match &self.door {
            Door::Socket(path) => UnixListener::bind(path).map(Listener::Unix),
            Door::Address(address) => TcpListener::bind(address).map(Listener::Tcp),
            Door::Descriptor(number) => {
                let unix = UnixListener::from(os::inherited(*number)?);
                if unix.local_addr().is_ok() {
                    Ok(Listener::Unix(unix))
                } else {
                    Ok(Listener::Tcp(TcpListener::from(std::os::fd::OwnedFd::from(unix))))
                }
            }
        }
    }
}

/// Parses `arguments`, or says which flag is wrong and how.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Flags, String> {
    let mut values = split(arguments)?;
    let mut take = |name: &str| values.remove(name).unwrap_or_default();
    let environment = environment(take("env"))?;
    let disks = take("disk").into_iter().map(PathBuf::from).collect();
    let mut one = |name: &str| match take(name).as_slice() {
        [] => Ok(None),
        [value] => Ok(Some(value.clone())),
        _ => Err(format!("--{name}: given twice")),
    };
    let door = match (one("socket")?, one("listen")?, one("listen-fd")?) {
        (Some(path), None, None) => Door::Socket(path.into()),
        (None, Some(address), None) => Door::Address(
            address.parse().map_err(|_| format!("--listen: {address:?} is not an address and port"))?,
        ),
        (None, None, Some(number)) => Door::Descriptor(number_of("listen-fd", &number)?),
        _ => {
            return Err(
                "give exactly one of --socket PATH, --listen ADDRESS:PORT, --listen-fd NUMBER".to_owned()
            );
        }
    };
    let life = one("life-fd")?.map(|number| number_of("life-fd", &number)).transpose()?;
    let mut number = |name: &str| one(name)?.map(|text| number_of::<u64>(name, &text)).transpose();
    let limits = Limits {
        memory_bytes: number("memory-bytes")?,
        pids: number("pids")?,
        disk_bytes: number("disk-bytes")?,
        file_bytes: number("file-bytes")?,
        open_files: number("open-files")?,
        cpu_seconds: number("cpu-seconds")?,
    };
    let silence = number("silence-seconds")?.map_or(SILENCE_DEFAULT, Duration::from_secs);
    let claim_within = number("claim-seconds")?.map(Duration::from_secs);
    let means = match one("means")?.as_deref() {
        Some("cgroup") => LimitMeans::Cgroup,
        Some("rlimits") | None => LimitMeans::Rlimits,
        Some(other) => return Err(format!("--means: {other:?} is neither cgroup nor rlimits")),
    };
    let allow_local_peers = match one("allow-local-peers")?.as_deref() {
        Some("true") => true,
        Some("false") | None => false,
        Some(other) => return Err(format!("--allow-local-peers: {other:?} is neither true nor false")),
    };
    let config = Config {
        pod_uid: one("pod-uid")?.ok_or("--pod-uid: missing")?,
        root: one("root")?.ok_or("--root: missing")?.into(),
        shell: one("shell")?.map(PathBuf::from).or_else(find_program),
        cgroup: one("cgroup")?.map(PathBuf::from),
        environment,
        limits,
        means,
        disks,
        silence,
        claim_within,
        allow_local_peers,
    };
    match values.keys().next() {
        Some(unknown) => Err(format!("--{unknown}: unknown flag")),
        None => Ok(Flags { door, life, config }),
    }
}

fn split(arguments: impl Iterator<Item = OsString>) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut arguments = arguments
        .map(|argument| argument.into_string().map_err(|raw| format!("{}: not UTF-8", raw.display())));
    while let Some(argument) = arguments.next().transpose()? {
        let flag = argument.strip_prefix("--").ok_or_else(|| format!("{argument:?}: flags start with --"))?;
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (flag, arguments.next().transpose()?.ok_or_else(|| format!("--{flag}: needs a value"))?),
        };
        values.entry(name.to_owned()).or_default().push(value);
    }
    Ok(values)
}

fn environment(extra: Vec<String>) -> Result<BTreeMap<String, String>, String> {
    let mut environment: BTreeMap<String, String> =
        ENVIRONMENT.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    for pair in extra {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| format!("--env: {pair:?} is not NAME=VALUE"))?;
        environment.insert(name.to_owned(), value.to_owned());
    }
    Ok(environment)
}

fn number_of<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("--{name}: {text:?} is not a number in range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Flags, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn both_spellings_are_read() {
        let flags =
            parsed("--socket /s --pod-uid=p --root /r --pids 9 --env A=b=c --claim-seconds=3").unwrap();
        assert_eq!((flags.config.pod_uid.as_str(), flags.config.limits.pids), ("p", Some(9)));
        assert_eq!(flags.config.environment["A"], "b=c");
        assert_eq!(flags.config.claim_within, Some(Duration::from_secs(3)));
    }

    #[test]
    fn each_wrong_flag_is_named() {
        for (line, flag) in [
            ("--socket /s --listen 127.0.0.1:1 --pod-uid p --root /r", "exactly one of --socket"),
            ("--pod-uid p --root /r", "exactly one of --socket"),
            ("--socket /s --root /r", "--pod-uid"),
            ("--socket /s --pod-uid p", "--root"),
            ("--socket /s --pod-uid p --root /r --pids many", "--pids"),
            ("--socket /s --pod-uid p --root /r --pids 1 --pids 2", "--pids"),
            ("--socket /s --pod-uid p --root /r --colour red", "--colour"),
            ("--socket /s --pod-uid p --root /r --means hope", "--means"),
            ("--listen here --pod-uid p --root /r", "--listen"),
            ("--socket /s --pod-uid p --root /r --life-fd forever", "--life-fd"),
            ("--socket /s --pod-uid p --root", "--root"),
            ("socket", "flags start with --"),
        ] {
            let problem = parsed(line).err().unwrap();
            assert!(problem.contains(flag), "{line}: {problem}");
        }
    }
}
