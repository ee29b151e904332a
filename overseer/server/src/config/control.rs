//! The keys of `[server]` that are about the control API over TCP.

use std::ops::Range;
use std::path::Path;

use super::table::{Located, Table};
use super::{IdentityFiles, ServerConfig};
use crate::failure::Failure;

/// Reads them; paths are relative to `base`.
pub(super) fn read(table: &Table<'_, '_>, base: &Path, server: &mut ServerConfig) -> Result<(), Failure> {
    let control = table.text("control", "\"0.0.0.0:7401\"")?;
    let certificate = table.text("control_cert", "\"server.pem\"")?;
    let key = table.text("control_key", "\"server.key\"")?;
    let names = table.texts("control_names", "[\"overseer.example.org\"]")?;
    let useless = |name: &str, span: &Range<usize>, without: &str| {
        let message = format!("`{name}` is of no use {without}");
        Err(table.wrong(name, span, message, "write control = \"0.0.0.0:7401\", or remove this key"))
    };
    let Some(control) = control else {
        for (name, text) in [("control_cert", &certificate), ("control_key", &key)] {
            if let Some(text) = text {
                return useless(name, &text.span, "without `control`");
            }
        }
        if let Some(first) = names.iter().flatten().next() {
            return useless("control_names", &first.span, "without `control`");
        }
        return Ok(());
    };
    let address = address(table, &control)?;
    if address.port() != 0 && server.listen == Some(address) {
        let message = "`control` is the address of `listen`, where labors call";
        return Err(table.wrong("control", &control.span, message, "give it another port, such as 7401"));
    }
    server.control = Some(address);
    server.control_identity = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            Some(IdentityFiles { certificate: base.join(certificate.value), key: base.join(key.value) })
        }
        (Some(certificate), None) => {
            return Err(missing(table, "control_key", &certificate, "\"server.key\""));
        }
        (None, Some(key)) => return Err(missing(table, "control_cert", &key, "\"server.pem\"")),
    };
    let names = names.unwrap_or_default();
    if let (Some(_), Some(first)) = (&server.control_identity, names.first()) {
        let message = "`control_names` is of no use beside `control_cert`, which has its own names";
        return Err(table.wrong("control_names", &first.span, message, "remove one of the two"));
    }
    for name in &names {
        // As a certificate can carry it.
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '*' | '_');
        if name.value.len() > 253 || !name.value.chars().all(good) {
            let message = format!("{:?} is no host name and no address", name.value);
            let help = "write names without a port, such as control_names = [\"overseer.example.org\"]";
            return Err(table.wrong("control_names", &name.span, message, help));
        }
    }
    server.control_names = names.into_iter().map(|name| name.value).collect();
    Ok(())
}

fn address(table: &Table<'_, '_>, text: &Located<String>) -> Result<std::net::SocketAddr, Failure> {
    text.value.parse().map_err(|_| {
        let message = format!("{:?} is not an address and a port", text.value);
        let help = "write control = \"0.0.0.0:7401\", or \"[::]:7401\" for IPv6";
        table.wrong("control", &text.span, message, help)
    })
}

/// One of two keys that only go together.
fn missing(table: &Table<'_, '_>, key: &str, there: &Located<String>, example: &str) -> Failure {
    let message = format!("the key `{key}` is missing beside this one");
    let help = format!("add {key} = {example}");
    table.source.mistake("config.missing", &there.span, Some(&table.path(key)), message, help)
}
