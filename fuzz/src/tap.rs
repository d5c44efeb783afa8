//! What a guest prints, read as a report.

use nvme_suite::tap::Report;

/// Reads text as the test kernel's output. It is the guest's: it may say anything, and none of it
/// may reach a terminal as a control character.
pub fn tap(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let report = Report::parse(&text);
    let (passed, failed, skipped) = report.totals();
    assert_eq!(passed + failed + skipped, report.tests.len());
    if report.good() {
        assert!(report.planned == Some(report.tests.len()) && failed == 0);
        assert!(
            report
                .tests
                .iter()
                .zip(1..)
                .all(|(test, number)| test.number == number)
        );
    }
    let mut texts: Vec<&str> = Vec::new();
    for test in &report.tests {
        texts.extend([test.name.as_str(), test.group(), &test.rule, &test.section]);
        if let Err(stop) = &test.outcome {
            let (nvme_suite::Stop::Skipped(text) | nvme_suite::Stop::Failed(text)) = stop;
            texts.push(text);
        }
    }
    texts.extend(
        report
            .problems
            .iter()
            .chain(&report.others)
            .map(String::as_str),
    );
    texts.extend(report.bail_out.as_deref());
    let found = &report.facts.found;
    texts.extend([found.model.as_str(), &found.serial, &found.firmware]);
    for (key, value) in &report.facts.others {
        texts.extend([key.as_str(), value]);
    }
    for text in texts {
        // A message may have several lines.
        let controls = text.chars().any(|c| c.is_control() && c != '\n');
        assert!(!controls, "{text:?}");
    }
}
