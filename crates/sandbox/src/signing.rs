//! Who may speak to a sandbox: one runner, by an ed25519 signature over every request.
//!
//! A request's head carries four headers: the pod's UID, a counter, the body's SHA-256 and the signature over
//! [`message`]. So a server can refuse a stranger before it reads a body. Counters rise strictly within a lane; `ping` has
//! a lane of its own, because it overtakes a request that is still being sent. Start at [`Session`] (a runner's side) and
//! [`Gate`] (the server's side). Replies are not signed: the door they come through is the server's alone.

use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::protocol::{Call, Claim, ErrorCode, ErrorReply, Ping};

/// Header with the pod's UID.
pub const POD_UID_HEADER: &str = "x-sealign-pod-uid";
/// Header with the counter, decimal.
pub const COUNTER_HEADER: &str = "x-sealign-counter";
/// Header with the body's SHA-256, hexadecimal.
pub const BODY_DIGEST_HEADER: &str = "x-sealign-body-sha256";
/// Header with the signature, hexadecimal.
pub const SIGNATURE_HEADER: &str = "x-sealign-signature";
/// Longest pod UID in bytes; Kubernetes' have 36.
const POD_UID_BYTES_MAX: usize = 64;
/// Longest item name in bytes.
const ITEM_BYTES_MAX: usize = 256;

/// The text that is signed: everything that decides what a request does, one per line.
pub fn message(pod_uid: &str, counter: u64, path: &str, body_digest: &str) -> String {
    format!("sealign-sandbox-v1\n{pod_uid}\n{counter}\nPOST {path}\n{body_digest}\n")
}

/// Whether `uid` can be a pod's UID: letters, digits and `-`, so that it cannot break [`message`] into other lines.
pub fn is_pod_uid(uid: &str) -> bool {
    !uid.is_empty()
        && uid.len() <= POD_UID_BYTES_MAX
        && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// SHA-256 in 64 lower-case hexadecimal digits.
pub fn digest_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A runner's side of one sandbox: its key, the pod, and the counter. Share it (it is `Sync`) between the thread that
/// works and the one that pings; requests other than `ping` must be sent one after the other.
pub struct Session {
    key: SigningKey,
    pod_uid: String,
    counter: AtomicU64,
}

impl Session {
    /// A session with the key of `seed` (32 bytes from a cryptographic source, used for this pod only).
    pub fn new(seed: [u8; 32], pod_uid: impl Into<String>) -> Self {
        Self { key: SigningKey::from_bytes(&seed), pod_uid: pod_uid.into(), counter: AtomicU64::new(0) }
    }

    /// The pod that this session's requests name.
    pub fn pod_uid(&self) -> &str {
        &self.pod_uid
    }

    /// The public key, 64 hexadecimal digits.
    pub fn public_key(&self) -> String {
        hex(self.key.verifying_key().as_bytes())
    }

    /// The claim of this session for `item`.
    pub fn claim(&self, item: impl Into<String>) -> Claim {
        Claim { runner_public_key: self.public_key(), item: item.into(), pod_uid: self.pod_uid.clone() }
    }

    /// The signed headers for `body` sent to `path`, with the next counter. Each call takes a new counter, so a request
    /// that is sent again must be signed again.
    pub fn sign(&self, path: &str, body: &[u8]) -> [(&'static str, String); 4] {
        let counter = self.counter.fetch_add(1, Ordering::SeqCst) + 1;
        let body_digest = digest_hex(body);
        let signature = self.key.sign(message(&self.pod_uid, counter, path, &body_digest).as_bytes());
        [
            (POD_UID_HEADER, self.pod_uid.clone()),
            (COUNTER_HEADER, counter.to_string()),
            (BODY_DIGEST_HEADER, body_digest),
            (SIGNATURE_HEADER, hex(&signature.to_bytes())),
        ]
    }
}

/// What a request's head says about who sent it. Fields are as received, not yet believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Value of [`POD_UID_HEADER`].
    pub pod_uid: Option<String>,
    /// Value of [`COUNTER_HEADER`].
    pub counter: Option<String>,
    /// Value of [`BODY_DIGEST_HEADER`].
    pub body_digest: Option<String>,
    /// Value of [`SIGNATURE_HEADER`].
    pub signature: Option<String>,
}

/// [`Credentials`] with every field present and well-formed.
struct Parsed<'a> {
    counter: u64,
    body_digest: &'a str,
    signature: Signature,
}

/// The server's side: which pod it is, who claimed it, and the highest counter of each lane.
#[derive(Debug)]
pub struct Gate {
    pod_uid: String,
    claim: Option<(VerifyingKey, Claim)>,
    work_counter: u64,
    ping_counter: u64,
}

impl Gate {
    /// The gate of an unclaimed pod.
    pub fn new(pod_uid: impl Into<String>) -> Self {
        Self { pod_uid: pod_uid.into(), claim: None, work_counter: 0, ping_counter: 0 }
    }

    /// Whether a runner has claimed the sandbox.
    pub fn is_claimed(&self) -> bool {
        self.claim.is_some()
    }

    /// Admits a request other than `claim` by its head alone, and takes its counter. The body must still be compared with
    /// [`Credentials::body_digest`].
    pub fn admit(&mut self, path: &str, credentials: &Credentials) -> Result<(), ErrorReply> {
        let parsed = self.parse(credentials)?;
        let Some((key, _)) = &self.claim else {
            return Err(ErrorReply::new(
                ErrorCode::Unclaimed,
                "the sandbox is not claimed; send a claim first",
            ));
        };
        verify(key, &self.pod_uid, path, &parsed)?;
        self.take_counter(path, parsed.counter)
    }

    /// Admits a claim: the first one is pinned, the same one again is accepted, any other is refused. It must be signed by
    /// the key it names.
    pub fn admit_claim(&mut self, claim: &Claim, credentials: &Credentials) -> Result<(), ErrorReply> {
        let parsed = self.parse(credentials)?;
        if claim.pod_uid != self.pod_uid {
            return Err(wrong_pod());
        }
        if claim.item.len() > ITEM_BYTES_MAX {
            return Err(ErrorReply::new(ErrorCode::TooLarge, format!("item: over {ITEM_BYTES_MAX} bytes")));
        }
        let key =
            unhex::<32>(&claim.runner_public_key).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        let Some(key) = key else {
            return Err(ErrorReply::new(
                ErrorCode::BadRequest,
                "runnerPublicKey: not an ed25519 key in 64 hex digits",
            ));
        };
        if self.claim.as_ref().is_some_and(|(_, pinned)| pinned != claim) {
            return Err(ErrorReply::new(
                ErrorCode::AlreadyClaimed,
                "another runner or item holds this sandbox",
            ));
        }
        verify(&key, &self.pod_uid, Claim::PATH, &parsed)?;
        self.take_counter(Claim::PATH, parsed.counter)?;
        self.claim = Some((key, claim.clone()));
        Ok(())
    }

    fn parse<'a>(&self, credentials: &'a Credentials) -> Result<Parsed<'a>, ErrorReply> {
        let unsigned =
            |header: &str| ErrorReply::new(ErrorCode::Unsigned, format!("{header}: missing or malformed"));
        let uid = credentials.pod_uid.as_deref().ok_or_else(|| unsigned(POD_UID_HEADER))?;
        if uid != self.pod_uid {
            return Err(wrong_pod());
        }
        let counter = credentials.counter.as_deref().and_then(|text| text.parse().ok());
        let body_digest = credentials.body_digest.as_deref().filter(|text| unhex::<32>(text).is_some());
        let signature = credentials.signature.as_deref().and_then(unhex::<64>);
        Ok(Parsed {
            counter: counter.ok_or_else(|| unsigned(COUNTER_HEADER))?,
            body_digest: body_digest.ok_or_else(|| unsigned(BODY_DIGEST_HEADER))?,
            signature: Signature::from_bytes(&signature.ok_or_else(|| unsigned(SIGNATURE_HEADER))?),
        })
    }

    fn take_counter(&mut self, path: &str, counter: u64) -> Result<(), ErrorReply> {
        let last = if path == Ping::PATH { &mut self.ping_counter } else { &mut self.work_counter };
        if counter <= *last {
            let text = format!("{COUNTER_HEADER}: {counter} is not above {last}");
            return Err(ErrorReply::new(ErrorCode::Replay, text));
        }
        *last = counter;
        Ok(())
    }
}

fn wrong_pod() -> ErrorReply {
    ErrorReply::new(ErrorCode::WrongPod, "the request names another pod than this one")
}

fn verify(key: &VerifyingKey, pod_uid: &str, path: &str, parsed: &Parsed<'_>) -> Result<(), ErrorReply> {
    let text = message(pod_uid, parsed.counter, path, parsed.body_digest);
    key.verify_strict(text.as_bytes(), &parsed.signature).map_err(|_| {
        ErrorReply::new(ErrorCode::BadSignature, "the signature is not the runner's for this request")
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// `N` bytes from exactly `2 N` lower-case hexadecimal digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "pod-1";

    fn credentials(session: &Session, path: &str, body: &[u8]) -> Credentials {
        let [uid, counter, digest, signature] = session.sign(path, body).map(|(_, value)| Some(value));
        Credentials { pod_uid: uid, counter, body_digest: digest, signature }
    }

    fn claimed() -> (Session, Gate) {
        let session = Session::new([7; 32], POD);
        let mut gate = Gate::new(POD);
        let claim = session.claim("item");
        let signed = credentials(&session, Claim::PATH, b"body");
        gate.admit_claim(&claim, &signed).unwrap();
        (session, gate)
    }

    fn code(result: Result<(), ErrorReply>) -> ErrorCode {
        result.unwrap_err().code
    }

    #[test]
    fn signed_requests_of_the_claiming_key_are_admitted_once() {
        let (session, mut gate) = claimed();
        let signed = credentials(&session, "/v1/exec", b"x");
        assert_eq!(gate.admit("/v1/exec", &signed), Ok(()));
        assert_eq!(code(gate.admit("/v1/exec", &signed)), ErrorCode::Replay);
    }

    #[test]
    fn a_signature_holds_for_its_path_body_counter_and_pod_only() {
        let (session, mut gate) = claimed();
        let signed = credentials(&session, "/v1/exec", b"x");
        assert_eq!(code(gate.admit("/v1/finish", &signed)), ErrorCode::BadSignature);
        let other_body = Credentials { body_digest: Some(digest_hex(b"y")), ..signed.clone() };
        assert_eq!(code(gate.admit("/v1/exec", &other_body)), ErrorCode::BadSignature);
        let other_counter = Credentials { counter: Some("99".into()), ..signed.clone() };
        assert_eq!(code(gate.admit("/v1/exec", &other_counter)), ErrorCode::BadSignature);
        let other_pod = Credentials { pod_uid: Some("pod-2".into()), ..signed };
        assert_eq!(code(gate.admit("/v1/exec", &other_pod)), ErrorCode::WrongPod);
    }

    #[test]
    fn a_missing_header_is_unsigned() {
        let (session, mut gate) = claimed();
        let signed = credentials(&session, "/v1/exec", b"x");
        for broken in [
            Credentials { pod_uid: None, ..signed.clone() },
            Credentials { counter: Some("-1".into()), ..signed.clone() },
            Credentials { body_digest: Some("ab".into()), ..signed.clone() },
            Credentials { signature: None, ..signed },
        ] {
            assert_eq!(code(gate.admit("/v1/exec", &broken)), ErrorCode::Unsigned);
        }
    }

    #[test]
    fn the_first_claim_is_pinned_and_may_be_repeated_but_not_replaced() {
        let (session, mut gate) = claimed();
        let again = credentials(&session, Claim::PATH, b"body");
        assert_eq!(gate.admit_claim(&session.claim("item"), &again), Ok(()));
        let other_item = credentials(&session, Claim::PATH, b"body");
        assert_eq!(code(gate.admit_claim(&session.claim("other"), &other_item)), ErrorCode::AlreadyClaimed);
        let thief = Session::new([8; 32], POD);
        let signed = credentials(&thief, Claim::PATH, b"body");
        assert_eq!(code(gate.admit_claim(&thief.claim("item"), &signed)), ErrorCode::AlreadyClaimed);
    }

    #[test]
    fn a_claim_must_be_signed_by_the_key_it_names() {
        let (holder, other) = (Session::new([1; 32], POD), Session::new([2; 32], POD));
        let mut gate = Gate::new(POD);
        let signed_by_other = credentials(&other, Claim::PATH, b"body");
        assert_eq!(code(gate.admit_claim(&holder.claim("item"), &signed_by_other)), ErrorCode::BadSignature);
        assert!(!gate.is_claimed());
    }

    #[test]
    fn nothing_but_a_claim_is_admitted_before_the_claim() {
        let session = Session::new([7; 32], POD);
        let signed = credentials(&session, "/v1/exec", b"x");
        assert_eq!(code(Gate::new(POD).admit("/v1/exec", &signed)), ErrorCode::Unclaimed);
    }

    #[test]
    fn a_ping_may_overtake_a_request_that_was_signed_before_it() {
        let (session, mut gate) = claimed();
        let work = credentials(&session, "/v1/exec", b"x");
        let ping = credentials(&session, Ping::PATH, b"{}");
        assert_eq!(gate.admit(Ping::PATH, &ping), Ok(()));
        assert_eq!(gate.admit("/v1/exec", &work), Ok(()));
        assert_eq!(code(gate.admit(Ping::PATH, &ping)), ErrorCode::Replay);
    }

    #[test]
    fn pod_uids_cannot_carry_line_breaks() {
        assert!(is_pod_uid("0b0b6f5e-63a1-4c2e-9df2-0d3f1f7a9a10"));
        assert!(!is_pod_uid("a\nb") && !is_pod_uid("") && !is_pod_uid(&"a".repeat(65)));
    }
}
