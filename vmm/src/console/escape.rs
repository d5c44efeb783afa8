//! Ctrl-A on a terminal: keys that are for us.

/// Ctrl-A.
const PREFIX: u8 = 0x01;

/// What the keys are, for `--help` and for those who ask on the console.
pub(super) const HELP: &str = "\r\n\
    Ctrl-A x       stops the guest and ends\r\n\
    Ctrl-A Ctrl-A  sends Ctrl-A (Ctrl-A a does too)\r\n\
    Ctrl-A h       prints this\r\n";

/// What a key means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// It goes to the guest.
    Send(u8),
    /// It is the first of an escape, or no escape.
    Nothing,
    /// The run is to end.
    Quit,
    /// [`HELP`] is wanted.
    Help,
}

/// The keys so far.
#[derive(Debug, Default)]
pub(super) struct Escape {
    begun: bool,
}

impl Escape {
    /// Takes a key in.
    pub(super) fn key(&mut self, key: u8) -> Action {
        match (std::mem::take(&mut self.begun), key) {
            (false, PREFIX) => {
                self.begun = true;
                Action::Nothing
            }
            (false, key) => Action::Send(key),
            (true, PREFIX | b'a') => Action::Send(PREFIX),
            (true, b'x') => Action::Quit,
            (true, b'h' | b'?') => Action::Help,
            (true, _) => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_ours_and_the_rest_the_guests() {
        let actions = |keys: &[u8]| -> Vec<Action> {
            let mut escape = Escape::default();
            let actions = keys.iter().map(|&key| escape.key(key));
            actions
                .filter(|action| *action != Action::Nothing)
                .collect()
        };
        let send = Action::Send;
        assert_eq!(actions(b"x\x03\xff"), [send(b'x'), send(3), send(0xff)]);
        assert_eq!(actions(b"\x01a\x01\x01a"), [send(1), send(1), send(b'a')]);
        assert_eq!(actions(b"\x01zx\x01x"), [send(b'x'), Action::Quit]);
        assert_eq!(actions(b"\x01h\x01"), [Action::Help]);
    }
}
