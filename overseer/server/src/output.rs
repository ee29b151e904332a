//! The terminal: colours, and writing beside a progress display.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use indicatif::MultiProgress;

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// One of the two standard outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    Stderr,
}

/// The progress display that runs, if one does: what is written beside it must make it step
/// aside.
static PROGRESS: OnceLock<MultiProgress> = OnceLock::new();

/// Decides on colours, for all of the program.
pub(crate) fn set_colors(choice: Color) {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let wanted = |terminal: bool| match choice {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && !no_color && !dumb,
    };
    console::set_colors_enabled(wanted(io::stdout().is_terminal()));
    console::set_colors_enabled_stderr(wanted(io::stderr().is_terminal()));
    let color = console::colors_enabled_stderr();
    // Fails only where somebody has set one before, which nobody does.
    let _ = miette::set_hook(Box::new(move |_| {
        let terminal = io::stderr().is_terminal();
        let width = usize::from(console::Term::stderr().size().1).clamp(40, 120);
        // A path must be there in one piece, for a search and to be copied.
        let words = miette::MietteHandlerOpts::new()
            .break_words(false)
            .word_separator(textwrap::WordSeparator::AsciiSpace)
            .word_splitter(textwrap::WordSplitter::NoHyphenation);
        Box::new(words.color(color).width(width).wrap_lines(terminal).build())
    }));
}

/// The progress display of this process, on a terminal; none elsewhere.
pub(crate) fn progress() -> Option<MultiProgress> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    (io::stderr().is_terminal() && !dumb).then(|| PROGRESS.get_or_init(MultiProgress::new).clone())
}

/// Why some of standard output is missing.
static LOST: OnceLock<String> = OnceLock::new();

/// Why some of standard output is missing, if it is.
pub(crate) fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

impl Target {
    /// Writes text. A reader that has gone away, as in `| head`, stops nobody's work; any other
    /// failure is remembered for [`lost`].
    pub(crate) fn write(self, text: &str) {
        let write = || match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                if let Err(error) = written
                    && error.kind() != io::ErrorKind::BrokenPipe
                {
                    // The first one is enough.
                    let _ = LOST.set(error.to_string());
                }
            }
            // Nobody is left to tell of it.
            Self::Stderr => drop(io::stderr().lock().write_all(text.as_bytes())),
        };
        match PROGRESS.get() {
            Some(progress) => progress.suspend(write),
            None => write(),
        }
    }

    /// Widest line of a table here, in columns: that of the terminal, but at least 80. Elsewhere
    /// nothing is cut, for a program may read it.
    pub(crate) fn width(self) -> usize {
        let terminal = match self {
            Self::Stdout => console::Term::stdout(),
            Self::Stderr => console::Term::stderr(),
        };
        if terminal.is_term() { usize::from(terminal.size().1).max(80) } else { usize::MAX }
    }

    /// Styles text if colours are on here.
    pub(crate) fn style(self, style: &console::Style, text: &str) -> String {
        let style = style.clone();
        let style = if self == Self::Stderr { style.for_stderr() } else { style.for_stdout() };
        style.apply_to(text).to_string()
    }

    /// Whether colours are on here.
    pub(crate) fn has_colors(self) -> bool {
        match self {
            Self::Stdout => console::colors_enabled(),
            Self::Stderr => console::colors_enabled_stderr(),
        }
    }
}

/// One JSON document on a line of standard output.
pub(crate) fn json(document: &impl serde::Serialize) {
    json_lines([document]);
}

/// JSON documents on standard output, one on a line, written at once.
pub(crate) fn json_lines<T: serde::Serialize>(documents: impl IntoIterator<Item = T>) {
    let mut text = String::new();
    for document in documents {
        match serde_json::to_string(&document) {
            Ok(line) => text.extend([line.as_str(), "\n"]),
            // All our documents have text as keys and finite numbers.
            Err(error) => tracing::error!(%error, "a document could not be written"),
        }
    }
    Target::Stdout.write(&text);
}

/// Logging to standard error: warnings, more with `-v`, or what `RUST_LOG` says.
pub(crate) fn log(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "warn",
        1 => "warn,overseer=info,overseer_server=info,overseer_adapter_local=info",
        _ => "info,overseer=debug,overseer_server=debug,overseer_adapter_local=debug",
    };
    let filter = std::env::var("RUST_LOG").ok().filter(|_| verbose == 0);
    let filter = EnvFilter::new(filter.as_deref().unwrap_or(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(console::colors_enabled_stderr())
        .with_writer(|| Beside(Vec::new()));
    // The first one stays.
    let _ = subscriber.try_init();
}

/// A line of the log, written beside the progress display when it is complete.
struct Beside(Vec<u8>);

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        Target::Stderr.write(&String::from_utf8_lossy(&self.0));
    }
}
