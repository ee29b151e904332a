//! The token that requests over TCP carry. It comes from the environment or a file, never from an
//! argument: arguments are seen by everybody on the machine.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::access::token::TokenText;
use crate::failure::Failure;

/// Variable with the token itself.
const VARIABLE: &str = "OVERSEER_TOKEN";
/// Far more than a token has.
const MOST_BYTES: u64 = 4096;

/// Adds a token to requests.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// Adds nothing.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The token of this file, or of the environment.
    ///
    /// # Errors
    /// `server.token`.
    pub(super) fn find(file: Option<&Path>) -> Result<Self, Failure> {
        let text = match (file, std::env::var(VARIABLE)) {
            (Some(file), _) => read(file)?,
            (None, Ok(text)) if !text.trim().is_empty() => text,
            (None, _) => {
                return Err(Failure::input("server.token", "a server is asked over TCP with a token only")
                    .help("set OVERSEER_TOKEN, or give --token-file FILE; `overseer token new` makes one"));
            }
        };
        Self::of(&text)
    }

    fn of(text: &str) -> Result<Self, Failure> {
        let token = TokenText::parse(text.trim()).ok_or_else(|| {
            Failure::input("server.token", "this is no token")
                .help("a token looks like ovr_ID_SECRET, as `overseer token new` has printed it once")
        })?;
        let value = MetadataValue::try_from(format!("Bearer {}", token.text().expose()));
        let mut value = value.map_err(|_| Failure::input("server.token", "this is no token"))?;
        // Neither shown nor kept in a table of headers.
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A file that nobody else may read.
fn read(path: &Path) -> Result<String, Failure> {
    let unusable = |why: String, help: String| {
        Failure::input("server.token", format!("{} cannot be used: {why}", path.display())).help(help)
    };
    let look = || "give the path of a file with a token in it".to_owned();
    let file = std::fs::File::open(path).map_err(|error| unusable(error.to_string(), look()))?;
    // Of what was opened, so that nobody can change it in between.
    let found = file.metadata().map_err(|error| unusable(error.to_string(), look()))?;
    if !found.is_file() {
        return Err(unusable("it is no file".into(), look()));
    }
    if found.mode() & 0o077 != 0 {
        let why = format!("others may read it (mode {:03o})", found.mode() & 0o777);
        return Err(unusable(why, format!("run `chmod 600 {}`", path.display())));
    }
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(|error| unusable(error.to_string(), look()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_file_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let token = format!("ovr_{}_{}", "0".repeat(16), "1".repeat(64));
        fs::write(&path, format!("{token}\n")).unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = Bearer::find(Some(&path));
            assert_eq!(read.is_ok(), good, "{mode:o}");
            if let Err(failure) = read {
                assert!(failure.help.unwrap().contains("chmod 600"));
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "hunter2").unwrap();
        let failure = Bearer::find(Some(&path)).err().unwrap();
        assert_eq!(failure.code, "server.token");
        assert!(!format!("{failure} {:?}", failure.help).contains("hunter2"));
        assert!(Bearer::find(Some(directory.path())).is_err());
    }

    #[test]
    fn a_token_is_sent_and_not_shown() {
        let token = format!("ovr_{}_{}", "0".repeat(16), "1".repeat(64));
        let mut bearer = Bearer::of(&token).unwrap();
        let request = bearer.call(Request::new(())).unwrap();
        let value = request.metadata().get("authorization").unwrap();
        assert_eq!(value.to_str().unwrap(), format!("Bearer {token}"));
        assert!(!format!("{request:?}").contains("1111"));
    }
}
