//! What a client says on the control socket.

use std::sync::{Arc, OnceLock};

use ferrite::{
    ctl::{COMMANDS, Conversation, MAX_REQUEST, MAX_RESPONSE, Request, Subject, Subjects, reply},
    nvme::MonotonicClock,
};
use nvme::{Controller, ControllerConfig, Interrupt, trace::Watch};
use storage::{GuestRam, GuestRamHandle, null::Null};
use vm_memory::GuestAddress;

use crate::{input::Input, machine::namespace, trace};

struct Nowhere;

impl Interrupt for Nowhere {
    fn signal(&self, _vector: u16) {}
}

/// What is asked about: a controller that nobody polls.
fn subjects() -> &'static Subjects {
    static SUBJECTS: OnceLock<Subjects> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
        let config = ControllerConfig {
            namespaces: vec![
                namespace(Null::new(1 << 20), 512),
                namespace(Null::new(1 << 20), 4096),
            ],
            watch: Watch {
                recorder: 4,
                statistics: true,
                ..Watch::default()
            },
            ..ControllerConfig::default()
        };
        let memory = GuestRamHandle::new(memory);
        let (controller, _) = Controller::new(config, memory, Arc::new(Nowhere)).expect("valid");
        Subjects {
            controllers: vec![Subject {
                controller: Arc::new(controller),
                sleeps: Vec::new(),
                clock: Arc::new(MonotonicClock::start()),
            }],
            exits: Arc::default(),
            quit: Box::new(|| ()),
        }
    })
}

/// Text that a client may send: requests, right or with something wrong in them, and anything.
fn text(input: &mut Input<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    while !input.is_empty() && text.len() < 4 * MAX_REQUEST {
        let choice = input.u8();
        let command = COMMANDS[usize::from(input.u8()) % COMMANDS.len()];
        let mut line = format!("{{\"version\":1,\"command\":\"{}\"", command.name).into_bytes();
        for argument in ["controller"].iter().chain(command.arguments) {
            let values = [
                "0",
                "1",
                "true",
                "false",
                "-1",
                "\"\"",
                "[]",
                "4294967296",
                "1e3",
            ];
            if input.u8() & 3 == 3 {
                let value = values[usize::from(input.u8()) % values.len()];
                line.extend_from_slice(format!(",\"{argument}\":{value}").as_bytes());
            }
        }
        line.extend_from_slice(b"}\n");
        match choice & 7 {
            5 => {
                let at = usize::from(input.u8()) % line.len();
                line[at] = input.u8();
            }
            6 => line = vec![input.u8(); usize::from(input.u8()) * 64],
            7 => line = vec![input.u8(), input.u8()],
            _ => {}
        }
        text.append(&mut line);
    }
    text
}

/// Gives a conversation what a client says, in pieces: what is read is read the same when it is said
/// again, every line is answered by one line, and nothing is kept beyond a request.
pub fn control(data: &[u8]) {
    let input = &mut Input::new(data);
    let size = usize::from(input.u8()) + 1;
    let text = text(input);
    trace!("{}", String::from_utf8_lossy(&text));
    let mut conversation = Conversation::default();
    for piece in text.chunks(size) {
        conversation.give(piece);
        while let Some(request) = conversation.next() {
            if let Ok(request) = &request {
                let again = Request::parse(request.line().as_bytes());
                assert_eq!(again.as_ref(), Ok(request));
            }
            let answer = request.and_then(|request| subjects().answer(request));
            let line = reply(&answer);
            assert!(line.len() <= MAX_RESPONSE && line.ends_with('\n'));
            assert!(!line.trim_end().contains('\n'), "one line: {line}");
            let member = if answer.is_ok() {
                "\"ok\":"
            } else {
                "\"error\":"
            };
            assert!(
                line.contains(member) && line.contains("\"version\":1"),
                "{line}"
            );
            trace!("{line}");
        }
        assert!(conversation.held() < MAX_REQUEST, "{}", conversation.held());
    }
}
