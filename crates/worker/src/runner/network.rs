//! The real door: HTTP over a socket file or the pod network, every request signed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng as _;
use sealign_sandbox::http::{REPLY_BYTES_MAX, decode_reply, encode_request};
use sealign_sandbox::protocol::{Claim, ErrorCode, ErrorReply};
use sealign_sandbox::signing::Session;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::pods::Pod;
use super::sandbox::{Door, Doors, SandboxError};

/// Time until a connection must stand: a pod whose server does not listen yet is asked again within it.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Wait before another try to connect.
const CONNECT_WAIT: Duration = Duration::from_millis(50);

/// Where a server listens.
#[derive(Clone, Debug)]
enum Endpoint {
    Unix(PathBuf),
    Tcp(String),
}

/// Opens doors over sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkDoors;

impl Doors for NetworkDoors {
    fn open(&self, pod: &Pod) -> Result<Arc<dyn Door>, SandboxError> {
        let endpoint = match pod.address.strip_prefix("unix:") {
            Some(path) => Endpoint::Unix(PathBuf::from(path)),
            None if pod.address.is_empty() => {
                return Err(SandboxError::Gone("the pod has no address".into()));
            }
            None => Endpoint::Tcp(host_and_port(&pod.address).to_owned()),
        };
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        Ok(Arc::new(NetworkDoor { endpoint, session: Session::new(seed, pod.uid.clone()) }))
    }
}

/// `host:port` of an address that may name its protocol.
fn host_and_port(address: &str) -> &str {
    let address = address.strip_prefix("http://").or_else(|| address.strip_prefix("tcp:")).unwrap_or(address);
    address.trim_end_matches('/')
}

struct NetworkDoor {
    endpoint: Endpoint,
    session: Session,
}

#[async_trait]
impl Door for NetworkDoor {
    fn claim(&self, item: &str) -> Claim {
        self.session.claim(item)
    }

    async fn exchange(
        &self,
        path: &'static str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, SandboxError> {
        let bytes = encode_request(path, &self.session.sign(path, &body), &body);
        let exchanged = tokio::time::timeout(patience, self.send(&bytes)).await;
        let reply =
            exchanged.map_err(|_| SandboxError::Gone(format!("no reply to {path} in {patience:?}")))??;
        match decode_reply(&reply) {
            Some((200, body)) => Ok(body.to_vec()),
            Some((_, body)) => {
                let malformed = || ErrorReply::new(ErrorCode::Io, "an error without words");
                Err(SandboxError::Refused(serde_json::from_slice(body).unwrap_or_else(|_| malformed())))
            }
            None => Err(SandboxError::Gone(format!("the reply to {path} is malformed or cut"))),
        }
    }
}

impl NetworkDoor {
    async fn send(&self, bytes: &[u8]) -> Result<Vec<u8>, SandboxError> {
        let gone = |error: std::io::Error| SandboxError::Gone(error.to_string());
        let deadline = tokio::time::Instant::now() + CONNECT_PATIENCE;
        loop {
            let exchanged = match &self.endpoint {
                Endpoint::Unix(path) => match UnixStream::connect(path).await {
                    Ok(stream) => return converse(stream, bytes).await.map_err(gone),
                    Err(error) => error,
                },
                Endpoint::Tcp(address) => {
                    // A node that is gone swallows the question: the kernel would ask for two minutes.
                    let connecting = TcpStream::connect(address.as_str());
                    match tokio::time::timeout_at(deadline, connecting).await {
                        Ok(Ok(stream)) => return converse(stream, bytes).await.map_err(gone),
                        Ok(Err(error)) => error,
                        Err(_) => std::io::ErrorKind::TimedOut.into(),
                    }
                }
            };
            // A socket file without a listener belongs to a server that has ended; over the network it may yet begin.
            if matches!(self.endpoint, Endpoint::Unix(_)) || tokio::time::Instant::now() >= deadline {
                return Err(gone(exchanged));
            }
            tokio::time::sleep(CONNECT_WAIT).await;
        }
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    // A server that refuses a head closes before it read the body: its reply says more than the broken pipe.
    let sent = stream.write_all(bytes).await;
    let mut reply = Vec::new();
    let limit = u64::try_from(REPLY_BYTES_MAX).unwrap_or(u64::MAX);
    let received = stream.take(limit + 1).read_to_end(&mut reply).await;
    match (sent, received) {
        (_, Ok(_)) if !reply.is_empty() => Ok(reply),
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(_)) => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_name_its_protocol() {
        for address in ["10.0.0.7:7070", "http://10.0.0.7:7070", "tcp:10.0.0.7:7070", "http://10.0.0.7:7070/"]
        {
            assert_eq!(host_and_port(address), "10.0.0.7:7070");
        }
        assert_eq!(host_and_port("http://[fd00::7]:7070"), "[fd00::7]:7070");
    }
}
