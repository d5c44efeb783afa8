//! What the tests that need QEMU share.

use ferrite::peer::Qemu;

/// The QEMU that there is: without one the test says so and is skipped, unless skips are
/// forbidden (FERRITE_FORBID_SKIPS=1).
pub(crate) fn find_qemu() -> Option<Qemu> {
    match Qemu::find(None) {
        Ok(qemu) => {
            println!("{} is QEMU {}", qemu.program.display(), qemu.version);
            Some(qemu)
        }
        Err(error) if Qemu::is_missing(&error) => {
            let forbidden = std::env::var_os("FERRITE_FORBID_SKIPS").is_some_and(|v| v == "1");
            assert!(!forbidden, "skips are forbidden: {error}");
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
