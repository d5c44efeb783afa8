//! What threads that read meanwhile see.

use std::process::Stdio;

use super::{FIRST, Place};

#[test]
fn readers_report_pages_that_are_older_than_what_was_acknowledged() {
    let place = Place::new("1M");
    let write = ["write", "T", "--page", "16K", "--threads", "1"];
    assert_eq!(
        place.run(&[&write[..], &["--ops", "1000"]].concat()).code,
        0
    );
    place.copy("T", "old");
    let read = [&write[..], &["--seconds", "3", "--readers", "1", "--json"]].concat();
    let child = place.command(&read).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    // Whole pages of the run before, over and over.
    while child.try_wait().expect("a child").is_none() {
        place.take("old", FIRST, 16 << 10);
        std::thread::yield_now();
    }
    let output = child.wait_with_output().expect("its words");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(r#""what":"lost""#), "{said}");
}
