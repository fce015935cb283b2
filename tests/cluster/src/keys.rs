//! Certificates and kubeconfigs of a bed, made by openssl for its life alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{BedError, Result};
use crate::network::node_name;
use crate::place::Place;
use crate::process::run;

/// First address of the service range: the API server as pods see it.
const API_SERVICE: &str = "10.96.0.1";

/// The folder of keys.
#[derive(Debug)]
pub struct Keys {
    folder: PathBuf,
    server: String,
}

impl Keys {
    /// Makes everything for `nodes` nodes.
    pub fn make(place: &Place, nodes: u8) -> Result<Self> {
        let folder = place.folder().join("pki");
        fs::create_dir_all(&folder).map_err(BedError::file(&folder))?;
        let address = place.address(1);
        let keys = Self { folder, server: format!("https://{address}:6443") };
        let (key, certificate) = (keys.path("ca.key"), keys.path("ca.crt"));
        let extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"];
        run(request(&key, &certificate, "/CN=sealign-bed", &extensions).arg("-x509"))?;
        let services = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
            DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1";
        let names = format!("{services},IP:{API_SERVICE},IP:{address}");
        keys.sign("apiserver", "/CN=kube-apiserver", "serverAuth", Some(&names))?;
        let clients = [
            ("admin", "/O=system:masters/CN=admin"),
            ("controller-manager", "/CN=system:kube-controller-manager"),
            ("scheduler", "/CN=system:kube-scheduler"),
            ("proxy", "/CN=system:kube-proxy"),
            ("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
            ("front-proxy", "/CN=front-proxy-client"),
        ];
        for (name, subject) in clients {
            keys.sign(name, subject, "clientAuth", None)?;
            keys.write_kubeconfig(name)?;
        }
        for node in 1..=nodes {
            let name = node_name(node);
            let names = format!("DNS:{name},IP:{}", place.node_address(node));
            let subject = format!("/O=system:nodes/CN=system:node:{name}");
            keys.sign(&name, &subject, "clientAuth,serverAuth", Some(&names))?;
            keys.write_kubeconfig(&name)?;
        }
        let (private, public) = (keys.path("accounts.key"), keys.path("accounts.pub"));
        run(Command::new("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .arg("-out")
            .arg(&private))?;
        run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public))?;
        Ok(keys)
    }

    /// URL of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Path of a file by its name: `ca.crt`, `<client>.crt`, `<client>.key`, `<client>.kubeconfig`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The same as text, for flags.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn sign(&self, name: &str, subject: &str, usage: &str, names: Option<&str>) -> Result<()> {
        let (key, certificate) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.crt")));
        let usage = format!("extendedKeyUsage={usage}");
        let names = names.map(|names| format!("subjectAltName={names}"));
        let mut extensions = vec!["basicConstraints=CA:FALSE", "keyUsage=digitalSignature", &usage];
        extensions.extend(names.as_deref());
        run(request(&key, &certificate, subject, &extensions)
            .arg("-x509")
            .arg("-CA")
            .arg(self.path("ca.crt"))
            .arg("-CAkey")
            .arg(self.path("ca.key")))
        .map(drop)
    }

    fn write_kubeconfig(&self, name: &str) -> Result<()> {
        let path = self.path(&format!("{name}.kubeconfig"));
        let text = format!(
            r#"apiVersion: v1
kind: Config
clusters: [{{name: bed, cluster: {{server: "{}", certificate-authority: "{}"}}}}]
users: [{{name: {name}, user: {{client-certificate: "{}", client-key: "{}"}}}}]
contexts: [{{name: bed, context: {{cluster: bed, user: {name}}}}}]
current-context: bed
"#,
            self.server,
            self.text("ca.crt"),
            self.text(&format!("{name}.crt")),
            self.text(&format!("{name}.key")),
        );
        fs::write(&path, text).map_err(BedError::file(path))
    }
}

/// A request for a new key and its certificate. No configuration file: distributions' own add extensions.
fn request(key: &Path, certificate: &Path, subject: &str, extensions: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command
        .args([
            "req",
            "-config",
            "/dev/null",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-days", "30", "-subj", subject, "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(certificate);
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    command
}
