//! Panics as messages: what a panic said and where, for the thread that catches it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics of this copy of the standard library remember their message and place; they are
/// still printed as before. A plugin has a copy of its own.
pub(crate) fn remember() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let said = text.unwrap_or("a panic without a text");
            let message = match info.location() {
                Some(place) => format!("{said}, at {place}"),
                None => said.to_owned(),
            };
            // A thread that ends has no such place any more; then there is nobody to tell.
            let _ = LAST.try_with(|last| *last.borrow_mut() = Some(message));
            before(info);
        }));
    });
}

/// Runs plugin code; a panic becomes its message.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        // Its drop is plugin code too, and could panic again.
        std::mem::forget(payload);
        LAST.take().unwrap_or_else(|| "a panic without a text".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_what_and_where() {
        remember();
        let message = caught(|| panic!("no {}", "bolts")).unwrap_err();
        assert!(message.starts_with("no bolts, at ") && message.contains("panics.rs:"), "{message}");
        assert_eq!(caught(|| 7), Ok(7));
        assert!(caught(|| std::panic::panic_any(3)).is_err());
    }
}
