//! `overseer release`: pack, inspect, verify, keygen.

use std::path::Path;

use console::Style;
use miette::NamedSource;
use object::{Object, ObjectSymbol};
use overseer_protocol::error_text;
use overseer_release::{
    InspectError, InspectedContent, Inspection, KeyError, ManifestError, Mode, PackError, Package,
    PackageError, Packed, PublicKey, Refused, ReleaseBuilder, SigningKey, Trust,
};
use serde::Serialize;

use crate::cli::{PackArgs, ReleaseArgs, ReleaseCommand, VerifyArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Place};
use crate::output::{self, Target};
use crate::table::{Cell, render};

/// Runs one of the commands.
pub(crate) fn run(args: ReleaseArgs) -> Result<Exit, Failure> {
    let json = args.json;
    match args.command {
        ReleaseCommand::Pack(args) => pack(&args, json),
        ReleaseCommand::Inspect(args) => {
            let inspection = overseer_release::inspect(&args.file).map_err(inspect_failure)?;
            if json {
                output::json(&inspection);
            } else {
                Target::Stdout.write(&describe(&inspection));
            }
            Ok(Exit::Passed)
        }
        ReleaseCommand::Verify(args) => verify(&args, json),
        ReleaseCommand::Keygen(args) => {
            let public = overseer_release::keygen(&args.name).map_err(key_failure)?;
            let ending = |ending: &str| format!("{}.{ending}", args.name.display());
            let made =
                Made { key: ending("key"), public_key_file: ending("pub"), public_key: public.to_string() };
            if json {
                output::json(&made);
            } else {
                let Made { key, public_key_file, public_key } = made;
                Target::Stdout.write(&format!(
                    "{key}  sign with it: overseer release pack … --key {key}; keep it secret\n\
                     {public_key_file}  give it to who trusts you: {public_key}\n"
                ));
            }
            Ok(Exit::Passed)
        }
    }
}

#[derive(Serialize)]
struct Made {
    key: String,
    public_key_file: String,
    public_key: String,
}

#[derive(Serialize)]
struct PackedDocument<'a> {
    id: String,
    name: &'a str,
    version: String,
    path: &'a Path,
    size: u64,
    raw_size: u64,
    chunks: usize,
    signed_by: Option<String>,
}

fn pack(args: &PackArgs, json: bool) -> Result<Exit, Failure> {
    let key = args.key.as_deref().map(SigningKey::read).transpose().map_err(key_failure)?;
    let packed = match &args.directory {
        Some(directory) => overseer_release::pack(directory, None, key.as_ref(), &args.out),
        None => {
            let mut builder = described(args)?;
            if let Some(key) = &key {
                builder = builder.sign(key);
            }
            builder.write(&args.out)
        }
    };
    let packed = packed.map_err(pack_failure)?;
    report(&packed, json);
    Ok(Exit::Passed)
}

/// A release that is described by arguments.
fn described(args: &PackArgs) -> Result<ReleaseBuilder, Failure> {
    let (Some(name), Some(version)) = (&args.name, &args.release_version) else {
        return Err(Failure::input(
            "release.arguments",
            "a plugin or program needs --name and --release-version",
        ));
    };
    let mut builder = match (&args.plugin, &args.program) {
        (Some(library), _) => {
            check_plugin(library)?;
            ReleaseBuilder::plugin(name, version, library)
        }
        (None, Some(program)) => {
            let mode = match (args.serve, args.run) {
                (true, _) => Mode::Serve,
                (_, true) => Mode::Run { concurrency: args.concurrency },
                _ => Mode::Supervise,
            };
            ReleaseBuilder::program(name, version, program).args(args.args.clone()).mode(mode)
        }
        (None, None) => return Err(Failure::input("release.arguments", "give DIR, --plugin or --program")),
    };
    for text in &args.environment {
        let (name, value) = pair(text, "--env", "NAME=VALUE")?;
        builder = builder.environment(name, value);
    }
    for text in &args.files {
        let (path, file) = pair(text, "--file", "PATH=FILE")?;
        builder = builder.file(path, file);
    }
    if let Some(target) = &args.target {
        builder = builder.target(target);
    }
    Ok(builder)
}

/// Whether a plugin host would find a plugin in a library.
fn check_plugin(library: &Path) -> Result<(), Failure> {
    let place = library.display();
    let bytes = std::fs::read(library).map_err(|error| {
        let what = format!("{place}: {error}; check the path and its permissions");
        let fault = is_fault(&error);
        if fault { Failure::fault("release.pack_io", what) } else { Failure::input("release.pack_io", what) }
    })?;
    let symbol = overseer_plugin::abi::SYMBOL;
    let exports = object::File::parse(&*bytes).is_ok_and(|file| {
        file.dynamic_symbols().any(|found| found.is_definition() && found.name() == Ok(symbol))
    });
    if exports {
        return Ok(());
    }
    let what = format!("{place} is no plugin: it does not export `{symbol}`");
    Err(Failure::input("release.not_a_plugin", what)
        .help("build a crate of type cdylib that says export_plugin!, or pack it with --program"))
}

fn pair<'a>(text: &'a str, option: &str, form: &str) -> Result<(&'a str, &'a str), Failure> {
    text.split_once('=').ok_or_else(|| {
        Failure::input(
            "release.arguments",
            format!("{option} {text:?} is not of the form {form}; write {option} {form}"),
        )
    })
}

fn report(packed: &Packed, json: bool) {
    let manifest = &packed.index.manifest;
    let signed_by = packed.signed_by.map(|key| key.to_string());
    if json {
        output::json(&PackedDocument {
            id: packed.id.to_string(),
            name: &manifest.name,
            version: manifest.version.to_string(),
            path: &packed.path,
            size: packed.size,
            raw_size: packed.index.size,
            chunks: packed.index.chunks.len(),
            signed_by,
        });
        return;
    }
    let signed = signed_by.map_or_else(
        || "unsigned; labors refuse it by default, sign with --key".to_owned(),
        |k| format!("signed by {k}"),
    );
    Target::Stdout.write(&format!(
        "{}  {} ({} raw)\n{} {} {}\n{signed}\n",
        packed.path.display(),
        size(packed.size),
        size(packed.index.size),
        manifest.name,
        manifest.version,
        packed.id,
    ));
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

fn describe(inspection: &Inspection) -> String {
    let manifest = &inspection.manifest;
    let head = |key: &str, value: String| vec![Cell::styled(key, Style::new().dim()), Cell::plain(value)];
    let mut rows = vec![
        head("id", inspection.id.to_string()),
        head("name", manifest.name.clone()),
        head("version", manifest.version.to_string()),
        head("kind", manifest.kind.name().to_owned()),
        head("entry", manifest.entry.clone()),
        head("target", manifest.target.clone()),
        head("size", format!("{} packed, {} raw", size(inspection.package_size), size(inspection.size))),
        head("chunks", format!("{}, {} distinct", inspection.chunks, inspection.distinct_chunks)),
    ];
    rows.extend(manifest.environment.iter().map(|(name, value)| head("env", format!("{name}={value}"))));
    if inspection.signatures.is_empty() {
        rows.push(head("signed by", "nobody".to_owned()));
    }
    rows.extend(inspection.signatures.iter().map(|signature| {
        let note = if signature.good { "" } else { " (bad: not this key's signature)" };
        head("signed by", format!("{}{note}", signature.key))
    }));
    let mut text = render(&rows, usize::MAX, &[], Target::Stdout);
    text.push('\n');
    let files: Vec<Vec<Cell>> = inspection
        .entries
        .iter()
        .map(|entry| match &entry.content {
            InspectedContent::Directory => {
                vec![Cell::plain("dir"), Cell::plain(""), Cell::plain(format!("{}/", entry.path))]
            }
            InspectedContent::Link { target } => {
                vec![Cell::plain("link"), Cell::plain(""), Cell::plain(format!("{} -> {target}", entry.path))]
            }
            InspectedContent::File { size: bytes, executable, .. } => {
                let kind = if *executable { "exec" } else { "file" };
                vec![Cell::plain(kind), Cell::plain(size(*bytes)), Cell::plain(entry.path.clone())]
            }
        })
        .collect();
    text.push_str(&render(&files, usize::MAX, &[], Target::Stdout));
    text
}

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    id: String,
    signed_by: Option<String>,
    code: Option<&'static str>,
    message: Option<String>,
}

fn verify(args: &VerifyArgs, json: bool) -> Result<Exit, Failure> {
    let keys = args.trust.iter().map(|text| trusted(text)).collect::<Result<Vec<_>, _>>()?;
    // Every chunk is read, as a labor would.
    let inspection = overseer_release::inspect(&args.file).map_err(inspect_failure)?;
    let package = Package::open(&args.file).map_err(package_failure)?;
    let verified = package.verify(&Trust::keys(keys));
    let signed_by = verified.as_ref().ok().and_then(|v| v.signed_by()).map(|key| key.to_string());
    let refused: Option<&Refused> = verified.as_ref().err();
    let verdict = Verdict {
        ok: refused.is_none(),
        id: inspection.id.to_string(),
        signed_by,
        code: refused.map(Refused::code),
        message: refused.map(ToString::to_string),
    };
    let exit = if verdict.ok { Exit::Passed } else { Exit::Failed };
    if json {
        output::json(&verdict);
    } else if let Some(message) = &verdict.message {
        let style = Style::new().red();
        Target::Stderr.write(&format!("{} {message}\n", Target::Stderr.style(&style, "refused:")));
    } else {
        let style = Style::new().green();
        let by = verdict.signed_by.unwrap_or_default();
        Target::Stdout.write(&format!(
            "{} {} is signed by {by}\n",
            Target::Stdout.style(&style, "good:"),
            verdict.id
        ));
    }
    Ok(exit)
}

/// A key by its file or its text.
fn trusted(text: &str) -> Result<PublicKey, Failure> {
    let path = Path::new(text);
    if path.exists() {
        return PublicKey::read(path).map_err(key_failure);
    }
    text.parse().map_err(|_| {
        Failure::input(
            "release.key_not_public",
            format!("{text:?} is neither a .pub file nor the text of a public key"),
        )
        .help("give the path of a .pub file, or its 64 hexadecimal digits")
    })
}

/// What the user can put right, or a fault of the machinery.
fn failure(code: &'static str, fault: bool, error: &dyn std::error::Error) -> Failure {
    if fault { Failure::fault(code, error_text(error)) } else { Failure::input(code, error_text(error)) }
}

/// A path that is wrong is the user's; a disk that fails is not.
fn is_fault(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    !matches!(
        error.kind(),
        Kind::NotFound
            | Kind::PermissionDenied
            | Kind::IsADirectory
            | Kind::NotADirectory
            | Kind::AlreadyExists
            | Kind::InvalidInput
            | Kind::InvalidFilename
    )
}

fn pack_failure(error: PackError) -> Failure {
    match error {
        PackError::Manifest(error) => manifest_failure(error),
        PackError::Io { ref source, .. } | PackError::Write(ref source) => {
            failure(error.code(), is_fault(source), &error)
        }
        error => failure(error.code(), false, &error),
    }
}

/// A mistake in a `release.toml`, with its place when the file can be shown.
fn manifest_failure(error: ManifestError) -> Failure {
    let code = error.code();
    let Ok(text) = std::fs::read_to_string(&error.path) else {
        return Failure::input(code, error.to_string());
    };
    let line_start = text.split_inclusive('\n').take(error.line - 1).map(str::len).sum::<usize>();
    let line = text[line_start..].lines().next().unwrap_or_default();
    let at = line.char_indices().nth(error.column - 1).map_or(line.len(), |(at, _)| at);
    let place = Place {
        key: error.key,
        line: u32::try_from(error.line).unwrap_or(u32::MAX),
        column: u32::try_from(error.column).unwrap_or(u32::MAX),
        span: line_start + at..line_start + line.len(),
        source: NamedSource::new(error.path.display().to_string(), text).with_language("TOML"),
    };
    Failure { place: Some(Box::new(place)), ..Failure::input(code, error.message) }
}

fn key_failure(error: KeyError) -> Failure {
    let fault = match &error {
        KeyError::Io { source, .. } => is_fault(source),
        KeyError::Random(_) => true,
        _ => false,
    };
    failure(error.code(), fault, &error)
}

fn package_failure(error: PackageError) -> Failure {
    let fault = matches!(&error, PackageError::Io { source, .. } if is_fault(source));
    failure(error.code(), fault, &error)
}

fn inspect_failure(error: InspectError) -> Failure {
    match error {
        InspectError::Package(error) => package_failure(error),
        error => failure(error.code(), false, &error),
    }
}
