use super::*;

fn parse(text: &str) -> Result<BuildFile, BuildFileError> {
    BuildFile::parse(text.as_bytes(), FILE_NAME)
}

/// The error of a file with one job `a`, whose body is given after `steps`.
fn wrong(body: &str) -> BuildFileError {
    parse(&format!("[jobs.a]\nsteps = [\"make\"]\n{body}\n")).expect_err(body)
}

#[track_caller]
fn says(error: &BuildFileError, line: u32, key: &str, words: &str) {
    assert_eq!((error.line, error.key.as_deref()), (line, Some(key)), "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(!error.help.is_empty());
    assert!(error.text.get(error.range()).is_some());
}

#[test]
fn every_key_is_read() {
    let file = parse(
        r#"
        [jobs.test]
        needs = ["build"]
        steps = ["./needs/build/app", "make check"]
        [jobs.build]
        steps = ["make"]
        artifacts = ["app", "doc/**/*.html"]
        env = { Z = "1", A = "2" }
        matrix = { os = ["linux"], cc = ["gcc", "clang"] }
        timeout = "1h 30m"
        cache = ["target", "deps/"]
        "#,
    )
    .unwrap();
    let names: Vec<_> = file.jobs.iter().map(|j| j.name.as_str()).collect();
    assert_eq!(names, ["test", "build"], "as in the file");
    let build = &file.jobs[1];
    assert_eq!(build.env, [("Z".into(), "1".into()), ("A".into(), "2".into())]);
    assert_eq!(build.matrix[0].0, "os");
    assert_eq!(build.timeout, Some(Duration::from_secs(5400)));
    assert_eq!(build.cache, ["target", "deps"]);
    assert_eq!(build.artifacts[1], ArtifactPattern::required("doc/**/*.html"));
    assert_eq!(file.jobs[0].needs, ["build"]);
    assert_eq!(file.jobs[0].timeout, None);
}

#[test]
fn the_build_file_of_this_repository_is_good() {
    let file = BuildFile::parse(include_bytes!("../../../../.overseer.toml"), FILE_NAME).unwrap();
    assert_eq!(file.jobs[0].artifacts, [ArtifactPattern::required("target/release/overseer")]);
}

#[test]
fn a_wrong_type_names_the_key_and_what_to_write() {
    says(&parse("jobs = 3").unwrap_err(), 1, "jobs", "a table is expected, not a number");
    says(&parse("jobs.a = \"make\"").unwrap_err(), 1, "jobs.a", "a table is expected, not a text");
    says(&parse("[jobs.a]\nsteps = \"make\"").unwrap_err(), 2, "jobs.a.steps", "a list of texts is expected");
    says(&parse("[jobs.a]\nsteps = [true]").unwrap_err(), 2, "jobs.a.steps[0]", "not true or false");
    says(&wrong("artifacts = { a = 1 }"), 3, "jobs.a.artifacts", "not a table");
    says(&wrong("artifacts = [1]"), 3, "jobs.a.artifacts[0]", "not a number");
    says(&wrong("needs = \"b\""), 3, "jobs.a.needs", "in brackets");
    says(&wrong("needs = [1]"), 3, "jobs.a.needs[0]", "not a number");
    says(&wrong("env = [\"A=1\"]"), 3, "jobs.a.env", "env = { CC");
    says(&wrong("env = { A = 1 }"), 3, "jobs.a.env.A", "put it in quotes");
    says(&wrong("matrix = [\"a\"]"), 3, "jobs.a.matrix", "table of lists");
    says(&wrong("matrix = { cc = \"gcc\" }"), 3, "jobs.a.matrix.cc", "in brackets");
    says(&wrong("matrix = { py = [3.10] }"), 3, "jobs.a.matrix.py[0]", "put it in quotes");
    says(&wrong("timeout = 20"), 3, "jobs.a.timeout", "put it in quotes");
    says(&wrong("cache = 1979-05-27"), 3, "jobs.a.cache", "not a date");
    says(&wrong("cache = [[\"a\"]]"), 3, "jobs.a.cache[0]", "not a list");
}

#[test]
fn unknown_keys_are_refused() {
    says(&parse("version = 1").unwrap_err(), 1, "version", "the only key here is `jobs`");
    let error = wrong("  step = [\"x\"]");
    says(&error, 3, "jobs.a.step", "a job's keys are `steps`");
    assert_eq!(error.column, 3);
    assert_eq!(&error.text[error.range()], "step");
}

#[test]
fn a_job_has_steps() {
    says(&parse("[jobs.a]\nsteps = []").unwrap_err(), 2, "jobs.a.steps", "there are no steps");
    says(&parse("\n[jobs.a]\nenv = {}").unwrap_err(), 2, "jobs.a.steps", "there are no steps");
    says(&parse("[jobs.a]\nsteps = [\" \"]").unwrap_err(), 2, "jobs.a.steps[0]", "the step is empty");
    says(&parse("[jobs.a]\nsteps = [\"a\\u0000\"]").unwrap_err(), 2, "jobs.a.steps[0]", "NUL");
    let long = format!("[jobs.a]\nsteps = [\"{}\"]", "x".repeat(100_001));
    says(&parse(&long).unwrap_err(), 2, "jobs.a.steps[0]", "100001 bytes");
}

#[test]
fn a_file_has_jobs() {
    for text in ["", "# nothing", "[jobs]"] {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains("there are no jobs"), "{error}");
        assert!(error.help.contains("[jobs.build]"));
    }
}

#[test]
fn job_names_are_plain() {
    for name in ["\"\"", "\"a b\"", "\"-a\"", "\".git\"", "\"a/b\"", "\"ä\"", &"a".repeat(65)] {
        let error = parse(&format!("[jobs.{name}]\nsteps = [\"x\"]")).expect_err(name);
        assert!(error.message.contains("is no job name"), "{error}");
    }
    for name in ["a", "0", "build-1.x_y", &"a".repeat(64)] {
        parse(&format!("[jobs.\"{name}\"]\nsteps = [\"x\"]")).expect(name);
    }
}

#[test]
fn needs_are_known_jobs_without_a_circle() {
    says(&wrong("needs = [\"b\"]"), 3, "jobs.a.needs[0]", "there is no job \"b\"; the jobs are: a");
    says(&wrong("needs = [\"a\"]"), 3, "jobs.a.needs[0]", "needs itself");
    says(&wrong("needs = [\"b\", \"b\"]\n[jobs.b]\nsteps=[\"x\"]"), 3, "jobs.a.needs[1]", "twice");
    let circle = "[jobs.x]\nsteps=[\"x\"]\nneeds=[\"c\"]\n[jobs.b]\nsteps=[\"x\"]\nneeds=[\"c\"]\n\
        [jobs.c]\nsteps=[\"x\"]\nneeds=[\"d\"]\n[jobs.d]\nsteps=[\"x\"]\nneeds=[\"b\"]\n";
    says(&parse(circle).unwrap_err(), 6, "jobs.b.needs[0]", "b → c → d → b");
}

#[test]
fn a_long_chain_of_jobs_is_no_circle() {
    let chain: String = (0..1000)
        .map(|i| {
            format!(
                "[jobs.j{i}]\nsteps=[\"x\"]\nneeds=[{}]\n",
                if i == 999 { String::new() } else { format!("\"j{}\"", i + 1) }
            )
        })
        .collect();
    assert_eq!(parse(&chain).unwrap().jobs.len(), 1000);
}

#[test]
fn paths_stay_in_the_checkout() {
    for key in ["artifacts", "cache"] {
        let key_of = format!("jobs.a.{key}[0]");
        for (path, words) in [
            ("/etc/passwd", "absolute"),
            ("../x", "`..`"),
            ("a/../../x", "`..`"),
            ("", "empty"),
            ("./a", "`.`"),
            ("a//b", "empty part"),
            (".git/config", ".git"),
            ("a\\u0000b", "NUL"),
        ] {
            says(&wrong(&format!("{key} = [\"{path}\"]")), 3, &key_of, words);
        }
    }
    says(&wrong("cache = [\"tar*\"]"), 3, "jobs.a.cache[0]", "not a plain directory");
    says(&wrong("cache = [\"needs/b\"]"), 3, "jobs.a.cache[0]", "needed jobs");
    says(&wrong("cache = [\"a\", \"a/\"]"), 3, "jobs.a.cache[1]", "twice");
    says(&wrong("artifacts = [\"dist/\"]"), 3, "jobs.a.artifacts[0]", "dist/**");
}

#[test]
fn a_bad_pattern_is_refused_not_run() {
    says(&wrong("artifacts = [\"a[\"]"), 3, "jobs.a.artifacts[0]", "is no pattern");
    says(&wrong("artifacts = [\"{a\"]"), 3, "jobs.a.artifacts[0]", "is no pattern");
    let deep = format!("{}x{}", "{".repeat(400), "}".repeat(400));
    says(&wrong(&format!("artifacts = [\"{deep}\"]")), 3, "jobs.a.artifacts[0]", "is no pattern");
}

#[test]
fn timeouts_have_a_unit_and_are_more_than_nothing() {
    for (text, words) in [
        ("20", "is no duration"),
        ("soon", "is no duration"),
        ("", "is no duration"),
        ("0s", "at once"),
        ("10us", "at once"),
        ("31days", "30 days"),
        ("99999999999999999999y", "is no duration"),
    ] {
        says(&wrong(&format!("timeout = \"{text}\"")), 3, "jobs.a.timeout", words);
    }
}

#[test]
fn env_names_are_names() {
    for name in ["1A", "A-B", "A B", "A=B", ""] {
        let error = wrong(&format!("env = {{ \"{name}\" = \"x\" }}"));
        assert!(error.message.contains("is no name"), "{error}");
    }
    says(&wrong("env = { OVERSEER_JOB = \"x\" }"), 3, "jobs.a.env.OVERSEER_JOB", "set by Overseer");
    says(&wrong("env = { MATRIX_OS = \"x\" }"), 3, "jobs.a.env.MATRIX_OS", "set by Overseer");
    says(&wrong("env = { A = \"\\u0000\" }"), 3, "jobs.a.env.A", "NUL");
}

#[test]
fn matrices_are_bounded_and_plain() {
    says(&wrong("matrix = { os = [] }"), 3, "jobs.a.matrix.os", "the list is empty");
    says(&wrong("matrix = { os = [\"a\", \"a\"] }"), 3, "jobs.a.matrix.os[1]", "twice");
    says(&wrong("matrix = { \"o s\" = [\"a\"] }"), 3, "jobs.a.matrix.o s", "is no matrix key");
    says(&wrong("matrix = { os = [\"a\"], OS = [\"b\"] }"), 3, "jobs.a.matrix.OS", "MATRIX_OS");
    for value in ["", "a/b", "a,b", "a)", " a", "a\\n", &"a".repeat(65)] {
        let error = wrong(&format!("matrix = {{ os = [\"{value}\"] }}"));
        assert!(error.message.contains("is no matrix value"), "{error}");
    }
    let list = |n: usize| (0..n).map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(",");
    parse(&format!("[jobs.a]\nsteps=[\"x\"]\nmatrix={{x=[{}],y=[{}]}}", list(16), list(16))).unwrap();
    let error = wrong(&format!("matrix = {{ x = [{}], y = [{}] }}", list(257), list(1)));
    says(&error, 3, "jobs.a.matrix", "257 combinations are more than the 256");
    let huge = (0..40).map(|i| format!("k{i}=[{}]", list(100))).collect::<Vec<_>>().join(",");
    says(&wrong(&format!("matrix = {{ {huge} }}")), 3, "jobs.a.matrix", "are more than the 256");
    let five: String =
        (0..5).map(|i| format!("[jobs.j{i}]\nsteps=[\"x\"]\nmatrix={{x=[{}]}}\n", list(256))).collect();
    assert!(parse(&five).unwrap_err().message.contains("1280 jobs"));
    let wide = (0..8).map(|i| format!("k{i}=[\"{}\"]", "v".repeat(60))).collect::<Vec<_>>().join(",");
    says(&wrong(&format!("matrix = {{ {wide} }}")), 3, "jobs.a.matrix", "bytes at most");
}

#[test]
fn broken_syntax_points_at_the_place() {
    let error = parse("[jobs.a]\nsteps = [\"a\"\nx").unwrap_err();
    assert!(error.line >= 2 && error.message.contains("not TOML"), "{error}");
    let twice = parse("[jobs.a]\nsteps=[\"x\"]\n[jobs.a]\nsteps=[\"y\"]").unwrap_err();
    assert!(twice.message.contains("duplicate"), "{twice}");
}

#[test]
fn a_file_that_is_too_large_or_no_text_is_refused() {
    let error = BuildFile::parse(&vec![b'#'; MAX_FILE_BYTES + 1], "f").unwrap_err();
    assert!(error.message.contains("1048577 bytes"), "{error}");
    let error = BuildFile::parse(b"# one\n# \xff", "f").unwrap_err();
    assert_eq!((error.line, error.column), (2, 3));
    assert!(error.to_string().starts_with("f:2:3: byte 8 is not UTF-8"), "{error}");
}

#[test]
fn columns_count_characters() {
    let error = parse("jobs.a = { steps = [\"ä\"], üx = 1 }").unwrap_err();
    assert!(error.line == 1, "{error}");
    let error = parse("[jobs.a]\nenv = { A = \"ää\", B = 1 }").unwrap_err();
    assert_eq!((error.line, error.column), (2, 23), "{error}");
    assert_eq!(&error.text[error.range()], "1");
}

#[test]
fn an_error_survives_the_wire() {
    let error = wrong("timeout = \"0s\"");
    let json = serde_json::to_vec(&error).unwrap();
    assert_eq!(serde_json::from_slice::<BuildFileError>(&json).unwrap(), error);
}

proptest::proptest! {
    #[test]
    fn no_file_panics_the_reader(text in "(\\[jobs\\.[a-c]\\]\n|steps=\\[\"x\"\\]\n|needs=\\[\"[a-c]\"\\]\n|matrix=\\{[a-c]=\\[\"[a-z]\"\\]\\}\n|artifacts=\\[\"[{}*\\[\\]a/.]{0,9}\"\\]\n|[ -~]{0,9}\n){0,9}") {
        match parse(&text) {
            Ok(file) => proptest::prop_assert!(!file.jobs.is_empty()),
            Err(error) => proptest::prop_assert!(error.text.get(error.range()).is_some()),
        }
    }

    #[test]
    fn no_bytes_panic_the_reader(bytes: Vec<u8>) {
        let _ = BuildFile::parse(&bytes, "f");
    }
}
