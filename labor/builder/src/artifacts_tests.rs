use std::os::unix::fs::symlink;

use overseer_plugin::testing::Recorder;

use super::*;

fn checkout(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, file).unwrap();
    }
    dir
}

fn run_with(root: &Path, patterns: &[ArtifactPattern], tracked: &[&str]) -> Result<Vec<String>, String> {
    let tracked = tracked.iter().map(PathBuf::from).collect();
    choose(root, patterns, &tracked).unwrap().map(|all| all.files.into_iter().map(|c| c.path).collect())
}

fn globs(root: &Path, globs: &[&str]) -> Result<Vec<String>, String> {
    let patterns: Vec<_> = globs.iter().map(|g| ArtifactPattern::required(*g)).collect();
    run_with(root, &patterns, &[])
}

fn executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn patterns_choose_files_sorted_and_once() {
    let dir = checkout(&["b/x.o", "a.o", "b/c/y.o", "a b\n.o", ".git/z.o", "app"]);
    let root = dir.path();
    assert_eq!(globs(root, &["*.o"]).unwrap(), ["a b\n.o", "a.o"]);
    assert_eq!(globs(root, &["**/*.o", "a.o"]).unwrap(), ["a b\n.o", "a.o", "b/c/y.o", "b/x.o"]);
    assert_eq!(globs(root, &["b/**", "app"]).unwrap(), ["app", "b/c/y.o", "b/x.o"]);
    assert_eq!(globs(root, &["b/*/y.o"]).unwrap(), ["b/c/y.o"]);
    assert_eq!(globs(root, &["{b/c,q}/y.[o]"]).unwrap(), ["b/c/y.o"]);
    assert_eq!(globs(root, &[]).unwrap(), [""; 0]);
}

#[test]
fn a_pattern_that_matches_nothing_is_named() {
    let dir = checkout(&["dist/x"]);
    let error = globs(dir.path(), &["dist/*", "ap*p"]).unwrap_err();
    assert!(error.contains("\"ap*p\""), "{error}");
    assert!(globs(dir.path(), &["none/x"]).unwrap_err().contains("no file matches"));
    assert!(globs(dir.path(), &["dist"]).unwrap_err().contains("dist/**"));
    let optional = ArtifactPattern { optional: true, ..ArtifactPattern::required("ap*p") };
    assert_eq!(run_with(dir.path(), &[optional], &[]).unwrap(), [""; 0]);
}

#[test]
fn links_give_the_file_they_lead_to_but_never_one_outside() {
    let outside = checkout(&["secret"]);
    let dir = checkout(&["real", ".git/config"]);
    let root = dir.path();
    symlink("real", root.join("link")).unwrap();
    symlink("nowhere", root.join("broken")).unwrap();
    symlink(".git/config", root.join("config")).unwrap();
    symlink(outside.path().join("secret"), root.join("out")).unwrap();
    symlink(outside.path(), root.join("dir")).unwrap();
    symlink("/dev/zero", root.join("device")).unwrap();
    let link = [ArtifactPattern::required("link")];
    let chosen = choose(root, &link, &BTreeSet::new()).unwrap().unwrap().files;
    assert_eq!(
        (chosen[0].path.as_str(), fs::read(&chosen[0].file).unwrap().as_slice()),
        ("link", &b"real"[..])
    );
    for path in ["out", "dir/secret", "dir/**", "device", "config"] {
        let error = globs(root, &[path]).unwrap_err();
        assert!(error.contains("out of the checkout"), "{path}: {error}");
    }
    for path in ["broken", "brok*"] {
        let error = globs(root, &[path]).unwrap_err();
        assert!(error.contains("\"broken\" is a link that leads nowhere"), "{error}");
    }
}

#[test]
fn only_regular_files_are_taken() {
    let dir = checkout(&["d/x"]);
    let fifo = dir.path().join("d/fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("d/socket")).unwrap();
    assert_eq!(globs(dir.path(), &["d/*"]).unwrap(), ["d/x"]);
    for (path, kind) in [("d/fifo", "a named pipe"), ("d/f*", "a named pipe"), ("d/socket", "a socket")] {
        let error = globs(dir.path(), &[path]).unwrap_err();
        assert!(error.contains(kind) && error.contains("no regular file"), "{error}");
    }
    drop(socket);
}

#[test]
fn detected_jobs_give_executables_that_the_build_made() {
    let dir = checkout(&["app", "configure", "app.c", "target/old"]);
    for name in ["app", "configure", "target/old"] {
        executable(&dir.path().join(name));
    }
    let made = |glob: &str| ArtifactPattern { glob: glob.into(), made_executables: true, optional: true };
    let patterns = [made("*"), made("target/*")];
    let found = run_with(dir.path(), &patterns, &["configure", "app.c"]).unwrap();
    assert_eq!(found, ["app", "target/old"]);
    remove_stale(dir.path(), &patterns, &["target".into()]).unwrap();
    assert_eq!(run_with(dir.path(), &patterns, &["configure"]).unwrap(), ["app"]);
}

#[test]
fn modes_survive_the_way_to_the_job_that_needs_them() {
    let dir = checkout(&["bin/app", "doc"]);
    executable(&dir.path().join("bin/app"));
    let blobs = tempfile::tempdir().unwrap();
    let call = Recorder::new(blobs.path()).call(1);
    let cancel = Cancel::of(&call.context).unwrap();
    let patterns = [ArtifactPattern::required("**")];
    let chosen = choose(dir.path(), &patterns, &BTreeSet::new()).unwrap().unwrap().files;
    let files = upload(chosen, &call.context, &cancel).unwrap();
    assert_eq!(
        files.iter().map(|f| (f.path.as_str(), f.size, f.mode)).collect::<Vec<_>>(),
        [("bin/app", 7, 0o755), ("doc", 3, 0o644)]
    );
    let target = tempfile::tempdir().unwrap();
    let needs = [NeedArtifacts { job: "build (os=linux)".into(), files }];
    lay_needs(target.path(), &needs, &call.context, &cancel).unwrap().unwrap();
    let app = target.path().join("needs/build (os=linux)/bin/app");
    assert_eq!(fs::read(&app).unwrap(), b"bin/app");
    assert_eq!(fs::metadata(&app).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn needs_with_tricks_are_refused_and_write_nothing() {
    let blobs = checkout(&["blobs/blob-1"]);
    let call = Recorder::new(blobs.path()).call(1);
    let cancel = Cancel::of(&call.context).unwrap();
    let file = |path: &str| Artifact { path: path.into(), digest: "blob-1".into(), size: 12, mode: 0o644 };
    let lay = |root: &Path, job: &str, files: &[&str]| {
        let files = files.iter().map(|path| file(path)).collect();
        lay_needs(root, &[NeedArtifacts { job: job.into(), files }], &call.context, &cancel)
    };
    let dir = tempfile::tempdir().unwrap();
    for (job, path) in
        [("..", "x"), ("a/b", "x"), ("", "x"), ("a", "../x"), ("a", "/x"), ("a", ""), ("a", ".git/x")]
    {
        assert!(matches!(lay(dir.path(), job, &[path]), Err(BuildError::BadRequest(_))), "{job} {path}");
    }
    assert!(lay(dir.path(), "a", &["x", "x"]).is_err());
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());

    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), dir.path().join("needs")).unwrap();
    let conflict = |dir: &Path| lay(dir, "a", &["x"]).unwrap().unwrap_err();
    assert!(conflict(dir.path()).contains("a link \"needs\" of its own"));
    fs::remove_file(dir.path().join("needs")).unwrap();
    for (files, kind) in [(["needs/x"], "a directory"), (["needs"], "a file")] {
        let message = conflict(checkout(&files).path());
        assert!(message.contains(kind) && message.contains("rename it"), "{message}");
    }
    lay_needs(checkout(&["needs/x"]).path(), &[], &call.context, &cancel).unwrap().unwrap();
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());

    lay(dir.path(), "b", &["x"]).unwrap().unwrap();
    fs::remove_dir_all(dir.path().join("needs")).unwrap();
    let short = [NeedArtifacts { job: "c".into(), files: vec![Artifact { size: 5, ..file("x") }] }];
    let error = lay_needs(dir.path(), &short, &call.context, &cancel).unwrap_err().to_string();
    assert!(error.contains("it has 12 bytes, not 5"), "{error}");
}

#[test]
fn only_names_of_artifacts_have_to_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let bad = |name: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(name));
    let dir = checkout(&["app"]);
    let root = dir.path();
    executable(&root.join("app"));
    fs::write(root.join(bad(b"d\xff")), "").unwrap();
    let made = |glob: &str| ArtifactPattern { glob: glob.into(), made_executables: true, optional: true };
    let chosen = choose(root, &[made("*")], &BTreeSet::new()).unwrap().unwrap();
    assert_eq!((chosen.files.len(), chosen.warnings.len()), (1, 0), "a file that is no artifact");
    fs::write(root.join(bad(b"x\xff")), "").unwrap();
    executable(&root.join(bad(b"x\xff")));
    let chosen = choose(root, &[made("*"), made("x*")], &BTreeSet::new()).unwrap().unwrap();
    assert_eq!((chosen.files.len(), chosen.warnings.len()), (1, 1));
    assert!(chosen.warnings[0].contains("\"x\\xFF\" is left out"), "{:?}", chosen.warnings);
    let tracked = [bad(b"x\xff")].into_iter().collect();
    assert!(choose(root, &[made("*")], &tracked).unwrap().unwrap().warnings.is_empty());
    assert!(globs(root, &["x*"]).unwrap_err().contains("UTF-8"), "asked for by name");
    assert_eq!(globs(root, &["a*"]).unwrap(), ["app"]);
}
