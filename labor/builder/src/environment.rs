use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// What steps inherit from the labor: who and where they are, and how tools find the network
/// and their stores. Nothing else, so that a job does not depend on how its labor was started.
/// Whoever starts labors for builds hands these on to them.
pub const INHERITED: [&str; 36] = [
    "ALL_PROXY",
    "CARGO_HOME",
    "CURL_CA_BUNDLE",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "GOMODCACHE",
    "GOPATH",
    "GOPROXY",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "MIX_HOME",
    "NIX_SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "NO_PROXY",
    "NPM_CONFIG_REGISTRY",
    "PATH",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "REQUESTS_CA_BUNDLE",
    "RUSTUP_AUTO_INSTALL",
    "RUSTUP_HOME",
    "SSH_AUTH_SOCK",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TZ",
    "USER",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "npm_config_registry",
];

/// The mark of the node, as the agent gives it to all that runs on it.
const NODE: &str = "OVERSEER_NODE";

/// The environment of a job's steps: what is inherited, then Overseer's own, then the job's,
/// which may set all but Overseer's.
pub(crate) fn of_job(
    variable: impl Fn(&str) -> Option<OsString>,
    job: &str,
    commit: &str,
    env: &BTreeMap<String, String>,
    tmp: &Path,
) -> BTreeMap<String, OsString> {
    let mut all: BTreeMap<String, OsString> = BTreeMap::new();
    all.insert("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into());
    all.insert("LANG".into(), "C.UTF-8".into());
    for name in INHERITED {
        if let Some(value) = variable(name) {
            all.insert(name.to_owned(), value);
        }
    }
    all.insert("CI".into(), "true".into());
    all.insert("TMPDIR".into(), tmp.into());
    all.extend(env.iter().map(|(name, value)| (name.clone(), value.into())));
    all.insert("OVERSEER_COMMIT".into(), commit.into());
    all.insert("OVERSEER_JOB".into(), job.into());
    // By this the agent finds what a step has left behind, whatever became of this process.
    if let Some(node) = variable(NODE) {
        all.insert(NODE.into(), node);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_sees_its_own_variables_and_no_secret_of_the_labor() {
        let labor = |name: &str| match name {
            "HOME" => Some("/root".into()),
            "AWS_SECRET_ACCESS_KEY" | "CARGO_TARGET_DIR" => Some("secret".into()),
            _ => None,
        };
        let env = [("CI", "false"), ("MATRIX_OS", "linux"), ("OVERSEER_JOB", "forged")];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect();
        let all = of_job(labor, "build", "c0ffee", &env, Path::new("/tmp/x"));
        let text: Vec<_> = all.iter().map(|(k, v)| format!("{k}={}", v.display())).collect();
        assert_eq!(
            text,
            [
                "CI=false",
                "HOME=/root",
                "LANG=C.UTF-8",
                "MATRIX_OS=linux",
                "OVERSEER_COMMIT=c0ffee",
                "OVERSEER_JOB=build",
                "PATH=/usr/local/bin:/usr/bin:/bin",
                "TMPDIR=/tmp/x",
            ]
        );
    }

    #[test]
    fn tools_find_the_network_and_their_stores() {
        assert!(INHERITED.is_sorted(), "each once, and found by who looks for it");
        let all = of_job(|name| Some(name.into()), "build", "c0ffee", &BTreeMap::new(), Path::new("/tmp/x"));
        for name in
            ["RUSTUP_AUTO_INSTALL", "npm_config_registry", "NPM_CONFIG_REGISTRY", "GIT_SSH_COMMAND", "PATH"]
        {
            assert_eq!(all[name], name);
        }
    }
}
