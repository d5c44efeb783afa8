//! Whose targets are: files that are made or not, and who may use one beside others.

use std::{fs, path::Path};

use super::Place;

#[test]
fn a_file_is_made_where_that_is_asked_for_and_never_among_devices() {
    let place = Place::empty();
    for arguments in [
        &["init", "T"][..],
        &["init", "T", "--length", "1M"],
        &["write", "T"],
        &["verify", "T"],
    ] {
        let ended = place.run(arguments);
        assert_eq!(ended.code, 2, "{arguments:?}");
        assert!(ended.stderr.contains("init --create"), "{}", ended.stderr);
        assert!(!place.path("T").exists(), "{arguments:?}");
    }
    let absent = format!("/dev/ferrite-dbpage-{}", std::process::id());
    std::os::unix::fs::symlink("/dev", place.path("devices")).expect("a link");
    std::os::unix::fs::symlink(&absent, place.path("link")).expect("a link");
    for (target, says) in [
        (absent.clone(), "no such device"),
        (absent.replace("/dev", "devices"), "no such device"),
        // A link to nowhere is no name of a file to be made.
        ("link".into(), "open link"),
    ] {
        let ended = place.run(&["init", &target, "--create", "--length", "1M"]);
        let made = Path::new(&absent).exists();
        // Before it is asserted: what is made by mistake is taken away.
        let _ = fs::remove_file(&absent);
        assert!(!made && ended.code == 2, "{target}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{target}: {}", ended.stderr);
    }
    assert_eq!(place.run(&["init", "T", "--create"]).code, 0);
    let (code, limits) = place.json(&["limits", "T"]);
    assert_eq!((code, &limits["is_device"]), (0, &false.into()));
}

#[test]
fn one_process_writes_to_a_target_and_none_judges_it_meanwhile() {
    let place = Place::new("1M");
    let write = ["write", "T", "--seconds", "60", "--journal", "-"];
    let mut command = place.command(&write);
    let journal = fs::File::create(place.path("J")).expect("a journal");
    let mut child = command.stdout(journal).spawn().expect("it starts");
    while fs::metadata(place.path("J")).expect("a journal").len() < 200 {
        assert!(child.try_wait().expect("a child").is_none(), "it ended");
        std::thread::yield_now();
    }
    let others = [
        &["write", "T", "--ops", "1"][..],
        &["init", "T", "--length", "1M"],
        &["verify", "T"],
        &["limits", "T"],
    ];
    let ended = others.map(|arguments| place.run(arguments));
    child.kill().expect("killed");
    child.wait().expect("a child");
    let [write, init, verify, limits] = ended;
    for (ended, says) in [
        (write, "one `init` or `write` at a time"),
        (init, "one `init` or `write` at a time"),
        (verify, "has to be at rest"),
    ] {
        assert_eq!(ended.code, 2, "{}", ended.stdout);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    assert_eq!(limits.code, 0, "{}", limits.stderr);
    // It is over: nobody has the lock.
    assert_eq!(place.run(&["write", "T", "--ops", "1"]).code, 0);
}
