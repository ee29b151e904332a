//! A client of another machine, as far as a server can tell: TCP, TLS, a token.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;

use crate::ran::Ran;
use crate::world::World;

pub(crate) struct Remote<'w> {
    world: &'w World,
    address: String,
    authority: String,
}

impl<'w> Remote<'w> {
    /// What `[server]` says for it, and more.
    pub(crate) fn keys(more: &str) -> String {
        format!("control = \"127.0.0.1:0\"\n{more}")
    }

    /// Of the server that runs in this world, with its own authority in `server-ca.pem`.
    pub(crate) fn of(world: &'w World) -> Self {
        let authority = world.overseer(["token", "ca"]).exits(0).stdout;
        fs::write(world.path("server-ca.pem"), authority).unwrap();
        Self::with_authority(world, "server-ca.pem")
    }

    pub(crate) fn with_authority(world: &'w World, file: &str) -> Self {
        let status = world.ask(["status"]);
        let address = status["control"].as_str().unwrap();
        let authority = world.path(file).display().to_string();
        Self { world, address: format!("https://{}", address.trim_start_matches("https://")), authority }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        self.address.trim_start_matches("https://")
    }

    /// A new token, made at the socket.
    pub(crate) fn token(&self, args: &[&str]) -> String {
        let made = self.world.ask(["token", "new"].iter().chain(args));
        made["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, token: Option<&str>, args: &[&str]) -> Command {
        let mut command = self.world.command(args);
        command.env("OVERSEER_SERVER", &self.address).env("OVERSEER_SERVER_CA", &self.authority);
        command.env_remove("OVERSEER_TOKEN").env_remove("OVERSEER_TOKEN_FILE");
        if let Some(token) = token {
            command.env("OVERSEER_TOKEN", token);
        }
        command
    }

    pub(crate) fn ran(&self, token: Option<&str>, args: &[&str]) -> Ran {
        Ran::of(self.command(token, args).output().unwrap())
    }

    /// Its only document, which is good.
    pub(crate) fn ask(&self, token: &str, args: &[&str]) -> Value {
        let args: Vec<_> = args.iter().copied().chain(["--json"]).collect();
        self.ran(Some(token), &args).exits(0).document()
    }

    /// What it was refused with.
    pub(crate) fn refused(&self, token: Option<&str>, args: &[&str], exit: i32) -> Value {
        let args: Vec<_> = args.iter().copied().chain(["--json"]).collect();
        let ran = self.ran(token, &args).exits(exit);
        ran.documents().pop().unwrap()
    }
}

/// The same token with another secret.
pub(crate) fn flip(token: &str) -> String {
    let last = if token.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &token[..token.len() - 1])
}

/// An authority's certificate, and a certificate of it for 127.0.0.1 with its key; all PEM.
pub(crate) fn authority() -> (String, (String, String)) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    (authority.pem(), (leaf.pem(), leaf_key.serialize_pem()))
}

/// What the port says to somebody without TLS.
pub(crate) fn plain_http(address: &str) -> String {
    let mut socket = TcpStream::connect(address.trim_start_matches("https://")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A reset is an answer too.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
