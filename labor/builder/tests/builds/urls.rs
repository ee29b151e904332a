use std::fs;

use overseer_builder::api::*;

use crate::harness::*;

const SHOW: &str = "[jobs.a]\nsteps = [\"git log --format=%s\"]\nartifacts = [\"**\"]\n";

fn three_commits() -> Repo {
    let repo = Repo::with(SHOW, &[("a", "1")]);
    repo.git(&["tag", "-a", "v1", "-m", "x"]);
    repo.commit("second");
    repo.git(&["branch", "topic"]);
    repo.write("a", "3");
    repo.commit("third");
    repo
}

#[test]
fn branches_tags_and_commits_of_a_url_are_fetched_alone() {
    let repo = three_commits();
    let third = repo.git(&["rev-parse", "HEAD"]);
    for (rev, subject) in [
        (None, "third"),
        (Some("main"), "third"),
        (Some("topic"), "second"),
        (Some("v1"), "first"),
        (Some(&*third), "third"),
    ] {
        let labor = Labor::new();
        let plan = labor.plan(repo.url(), rev);
        assert_eq!((plan.subject.as_str(), plan.dirty), (subject, false));
        let (report, log) = labor.run(&labor.request(&repo.url(), &plan, 0));
        passed(&report);
        assert_eq!(log.trim(), subject, "no history is fetched");
    }
}

#[test]
fn revisions_that_need_the_history_fetch_it() {
    let repo = three_commits();
    let labor = Labor::new();
    let first = repo.git(&["rev-parse", "v1^{commit}"]);
    assert_eq!(labor.plan(repo.url(), None).subject, "third");
    for rev in ["HEAD~2", "main~2", &first[..8], "v1"] {
        assert_eq!(labor.plan(repo.url(), Some(rev)).commit, first, "{rev}");
    }
    let plan = labor.plan(repo.url(), None);
    let (report, log) = labor.run(&labor.request(&repo.url(), &plan, 0));
    passed(&report);
    assert_eq!(log, "third\nsecond\nfirst\n");
}

#[test]
fn a_branch_that_moved_is_fetched_again_and_a_commit_is_not() {
    let repo = three_commits();
    let labor = Labor::new();
    let plan = labor.plan(repo.url(), Some("main"));
    repo.git(&["commit", "-q", "--amend", "-m", "forced"]);
    assert_eq!(labor.plan(repo.url(), Some("main")).subject, "forced");
    // The server is gone: what is here already can still be built.
    let url = repo.url();
    fs::rename(&repo.root, repo.beside("moved")).unwrap();
    let (report, _) = labor.run(&labor.request(&url, &plan, 0));
    passed(&report);
    assert_eq!(labor.blob(&report, "a"), b"3");
    let error = labor.plan_error(url, Some("main"));
    assert!(error.contains("cannot be fetched; check the address"), "{error}");
}

#[test]
fn a_commit_is_run_on_a_labor_that_did_not_plan_it() {
    let repo = three_commits();
    let plan = Labor::new().plan(repo.url(), Some("topic"));
    let other = Labor::new();
    let (report, log) = other.run(&other.request(&repo.url(), &plan, 0));
    passed(&report);
    assert_eq!(log.trim(), "second");
}

#[test]
fn urls_that_lead_nowhere_say_so_without_their_password() {
    let labor = Labor::new();
    let url = |text: &str| Source::Url(text.to_owned());
    let is_fault = |text: &str| labor.try_plan(url(text), None).unwrap_err().is_fault();
    assert!(is_fault("http://127.0.0.1:1/x.git"), "nobody answers");
    assert!(is_fault("git://127.0.0.1:1/x.git"), "nobody answers");
    assert!(!is_fault("file:///no/such/place"), "there is no such repository");
    let error = labor.plan_error(url("http://ada:geheim@127.0.0.1:1/x.git"), None);
    assert!(error.contains("http://127.0.0.1:1/x.git cannot be fetched"), "{error}");
    assert!(!error.contains("geheim"), "{error}");
    assert!(labor.plan_error(url("file:///no/such/place"), None).contains("cannot be fetched"));
    for bad in ["", "-x", "--upload-pack=touch /tmp/x", "ext::sh -c true", "a\nb"] {
        assert!(labor.plan_error(url(bad), None).contains("is no git URL"), "{bad:?}");
    }
    let repo = three_commits();
    let error = labor.plan_error(repo.url(), Some("v9"));
    assert!(error.contains("there is no revision \"v9\"") && error.contains("topic"), "{error}");
    let empty = Repo::empty();
    let error = labor.plan_error(empty.url(), None);
    assert!(error.contains("no commits yet"), "{error}");
}

#[test]
fn two_builds_of_one_url_at_once_are_safe() {
    let repo = three_commits();
    let labor = Labor::new();
    std::thread::scope(|scope| {
        let builds: Vec<_> = (0..4).map(|_| scope.spawn(|| labor.build(&repo.url()))).collect();
        for build in builds {
            passed(&build.join().unwrap());
        }
    });
}
