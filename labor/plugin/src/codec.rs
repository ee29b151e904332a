//! How typed payloads and results travel: JSON, on both sides of a call.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::PluginError;

/// Bytes of a value.
///
/// # Errors
/// [`ErrorKind::Failed`](crate::ErrorKind::Failed) for what JSON cannot hold, such as a map whose
/// keys are no text.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, PluginError> {
    serde_json::to_vec(value).map_err(|error| {
        PluginError::failed(format!(
            "a {} cannot be written as JSON: {error}; use text as map keys",
            std::any::type_name::<T>()
        ))
    })
}

/// The value that these bytes hold; no bytes at all are JSON's `null`, so that a method without
/// input can be called without a payload.
///
/// # Errors
/// [`ErrorKind::BadPayload`](crate::ErrorKind::BadPayload), with the type and the place.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PluginError> {
    let bytes = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        PluginError::bad_payload(format!("expected {} as JSON: {error}", std::any::type_name::<T>()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn no_payload_is_null() {
        decode::<()>(b"").unwrap();
        assert_eq!(decode::<Option<u8>>(b"").unwrap(), None);
        assert_eq!(decode::<u8>(b"").unwrap_err().kind, ErrorKind::BadPayload);
    }

    #[test]
    fn a_wrong_payload_says_what_was_expected() {
        let error = decode::<u32>(b"\"seven\"").unwrap_err();
        assert!(error.message.contains("u32") && error.message.contains("line 1"), "{error}");
    }
}
