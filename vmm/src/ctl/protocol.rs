//! The protocol without a socket: lines of JSON in, requests out; answers in, lines out.

use serde_json::{Map, Value, json};

/// The version of requests and answers.
pub const VERSION: u64 = 1;
/// Bytes of a request at most, its end of line included.
pub const MAX_REQUEST: usize = 4096;
/// Bytes of an answer at most, its end of line included.
pub const MAX_RESPONSE: usize = 16 << 20;
/// Commands of the flight recorder that an answer has unless the request says how many.
const LAST: u64 = 1024;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// The commands there are.
    Help,
    /// The versions of Ferrite and of the protocol.
    Version,
    /// Identify Controller, or Identify Namespace of a namespace.
    Identify {
        /// NSID.
        namespace: Option<u32>,
    },
    /// What the controller takes at most, and promises.
    Limits,
    /// Get Features.
    Features,
    /// The namespaces.
    Namespaces,
    /// Counters and latencies.
    Stats,
    /// The flight recorder's last commands.
    Trace {
        /// How many at most.
        last: u64,
    },
    /// Tracing on or off.
    SetTrace(bool),
    /// The end of the run.
    Quit,
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// Of which controller, 0 for the first; all, where `None` and the command allows it.
    pub controller: Option<usize>,
}

/// A command's name, arguments and use.
#[derive(Clone, Copy, Debug)]
pub struct CommandInfo {
    /// Its name in a request.
    pub name: &'static str,
    /// The members that a request may have beside `version`, `command` and `controller`.
    pub arguments: &'static [&'static str],
    /// What it is for.
    pub help: &'static str,
}

/// The commands there are.
pub const COMMANDS: [CommandInfo; 9] = [
    CommandInfo {
        name: "help",
        arguments: &[],
        help: "the commands there are",
    },
    CommandInfo {
        name: "version",
        arguments: &[],
        help: "the versions of Ferrite and of this protocol",
    },
    CommandInfo {
        name: "identify",
        arguments: &["namespace"],
        help: "Identify Controller, or Identify Namespace of a namespace",
    },
    CommandInfo {
        name: "limits",
        arguments: &[],
        help: "what the controller takes at most, and what it promises to be atomic",
    },
    CommandInfo {
        name: "features",
        arguments: &[],
        help: "what Get Features returns, now and by default",
    },
    CommandInfo {
        name: "namespaces",
        arguments: &[],
        help: "the namespaces with their sizes and formats",
    },
    CommandInfo {
        name: "stats",
        arguments: &[],
        help: "commands, bytes, errors, interrupts, wake-ups, exits, latencies",
    },
    CommandInfo {
        name: "trace",
        arguments: &["on", "last"],
        help: "the last commands (\"last\": how many), or tracing \"on\": true or false",
    },
    CommandInfo {
        name: "quit",
        arguments: &[],
        help: "ends the run, with exit code 8",
    },
];

/// What kind of error an answer tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// It is no request: not JSON, too long, a member that is missing or of another type.
    BadRequest,
    /// The version is another.
    BadVersion,
    /// There is no such command.
    UnknownCommand,
    /// There is no such controller or namespace.
    NotFound,
    /// It cannot be done as the run was started.
    NotAvailable,
    /// The answer would be larger than an answer may be.
    TooLarge,
}

impl ErrorCode {
    /// Its name in an answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::BadVersion => "bad-version",
            Self::UnknownCommand => "unknown-command",
            Self::NotFound => "not-found",
            Self::NotAvailable => "not-available",
            Self::TooLarge => "too-large",
        }
    }
}

/// Why a request is not answered, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The kind.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
}

impl Refused {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

fn bad(message: impl Into<String>) -> Refused {
    Refused::new(ErrorCode::BadRequest, message)
}

impl Request {
    /// Reads a line, without its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| bad(format!("a request is one line of JSON: {error}")))?;
        let Value::Object(members) = value else {
            return Err(bad("a request is an object"));
        };
        let version = members
            .get("version")
            .ok_or_else(|| bad(format!("\"version\" is missing; this is version {VERSION}")))?;
        if version.as_u64() != Some(VERSION) {
            let message = format!("version {version} is not known; this is version {VERSION}");
            return Err(Refused::new(ErrorCode::BadVersion, message));
        }
        let command = members.get("command").and_then(Value::as_str);
        let command = command.ok_or_else(|| bad("\"command\" is missing, or no string"))?;
        let Some(info) = COMMANDS.iter().find(|info| info.name == command) else {
            let names = COMMANDS.map(|info| info.name).join(", ");
            let message = format!("there is no command {command:?}; there are: {names}");
            return Err(Refused::new(ErrorCode::UnknownCommand, message));
        };
        let usual = ["version", "command", "controller"];
        let known = |name: &str| usual.contains(&name) || info.arguments.contains(&name);
        if let Some(unknown) = members.keys().find(|name| !known(name)) {
            return Err(bad(format!("{command} takes no {unknown:?}")));
        }
        let controller = number(&members, "controller", usize::MAX as u64)?;
        let command = match info.name {
            "help" => Command::Help,
            "version" => Command::Version,
            "identify" => Command::Identify {
                namespace: number(&members, "namespace", u32::MAX.into())?
                    .and_then(|nsid| u32::try_from(nsid).ok()),
            },
            "limits" => Command::Limits,
            "features" => Command::Features,
            "namespaces" => Command::Namespaces,
            "stats" => Command::Stats,
            "trace" => match (members.get("on"), number(&members, "last", u64::MAX)?) {
                (None, last) => Command::Trace {
                    last: last.unwrap_or(LAST),
                },
                (Some(Value::Bool(on)), None) => Command::SetTrace(*on),
                (Some(_), None) => return Err(bad("\"on\" is true or false")),
                (Some(_), Some(_)) => {
                    return Err(bad("trace takes \"on\" or \"last\", not both"));
                }
            },
            _ => Command::Quit,
        };
        Ok(Self {
            command,
            controller: controller.and_then(|index| usize::try_from(index).ok()),
        })
    }

    /// The request as a line, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        let (name, argument) = match self.command {
            Command::Help => ("help", None),
            Command::Version => ("version", None),
            Command::Identify { namespace } => {
                ("identify", namespace.map(|nsid| ("namespace", json!(nsid))))
            }
            Command::Limits => ("limits", None),
            Command::Features => ("features", None),
            Command::Namespaces => ("namespaces", None),
            Command::Stats => ("stats", None),
            Command::Trace { last } => ("trace", Some(("last", json!(last)))),
            Command::SetTrace(on) => ("trace", Some(("on", json!(on)))),
            Command::Quit => ("quit", None),
        };
        let mut members = Map::new();
        members.insert("version".into(), VERSION.into());
        members.insert("command".into(), name.into());
        members.extend(argument.map(|(name, value)| (name.to_string(), value)));
        let controller = self
            .controller
            .map(|index| ("controller".into(), json!(index)));
        members.extend(controller);
        Value::Object(members).to_string()
    }
}

/// A member that is a whole number of at most `most`, if it is there.
fn number(members: &Map<String, Value>, name: &str, most: u64) -> Result<Option<u64>, Refused> {
    let Some(value) = members.get(name) else {
        return Ok(None);
    };
    let number = value.as_u64().filter(|number| *number <= most);
    let wrong = || bad(format!("{name:?} is a whole number of 0 to {most}"));
    number.map(Some).ok_or_else(wrong)
}

/// An answer as a line, its end included.
#[must_use]
pub fn reply(answer: &Result<Value, Refused>) -> String {
    let line = match answer {
        Ok(value) => json!({ "version": VERSION, "ok": value }).to_string() + "\n",
        Err(Refused { code, message }) => {
            let error = json!({ "code": code.name(), "message": message });
            json!({ "version": VERSION, "error": error }).to_string() + "\n"
        }
    };
    if line.len() <= MAX_RESPONSE {
        return line;
    }
    let message = format!("the answer is larger than {MAX_RESPONSE} bytes; ask for less");
    reply(&Err(Refused::new(ErrorCode::TooLarge, message)))
}

/// One side of a connection: what came in and is not a request yet. It holds a request of
/// [`MAX_REQUEST`] bytes and what was given at once beside it, and no more.
#[derive(Debug, Default)]
pub struct Conversation {
    waiting: Vec<u8>,
    /// What comes is the rest of a line that is too long.
    skipping: bool,
}

impl Conversation {
    /// Takes bytes in. Whoever gives more before [`next`](Self::next) has nothing left has them
    /// kept.
    pub fn give(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next request, or what is wrong with it; `None` until there is a whole line.
    #[expect(clippy::should_implement_trait, reason = "more may come after None")]
    pub fn next(&mut self) -> Option<Result<Request, Refused>> {
        loop {
            let end = self.waiting.iter().position(|&byte| byte == b'\n');
            if self.skipping {
                // The line was refused before.
                let Some(end) = end else {
                    self.waiting.clear();
                    return None;
                };
                self.waiting.drain(..=end);
                self.skipping = false;
                continue;
            }
            let too_long = || {
                Some(Err(bad(format!(
                    "a request has at most {MAX_REQUEST} bytes"
                ))))
            };
            match end {
                Some(end) => {
                    let line: Vec<u8> = self.waiting.drain(..=end).collect();
                    let (_, line) = line.split_last()?;
                    if line.len() >= MAX_REQUEST {
                        return too_long();
                    }
                    if line.trim_ascii().is_empty() {
                        continue;
                    }
                    return Some(Request::parse(line));
                }
                None if self.waiting.len() >= MAX_REQUEST => {
                    self.skipping = true;
                    self.waiting.clear();
                    return too_long();
                }
                None => return None,
            }
        }
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: Command) -> Request {
        Request {
            command,
            controller: None,
        }
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        for command in [
            Command::Help,
            Command::Version,
            Command::Identify { namespace: None },
            Command::Identify { namespace: Some(3) },
            Command::Limits,
            Command::Features,
            Command::Namespaces,
            Command::Stats,
            Command::Trace { last: 7 },
            Command::SetTrace(false),
            Command::Quit,
        ] {
            for controller in [None, Some(2)] {
                let request = Request {
                    command,
                    controller,
                };
                assert_eq!(Request::parse(request.line().as_bytes()), Ok(request));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let refused = |line: &str| Request::parse(line.as_bytes()).expect_err(line);
        for (line, code, says) in [
            ("{", ErrorCode::BadRequest, "JSON"),
            ("[]", ErrorCode::BadRequest, "an object"),
            (r#"{"command":"help"}"#, ErrorCode::BadRequest, "version 1"),
            (
                r#"{"version":2,"command":"help"}"#,
                ErrorCode::BadVersion,
                "version 1",
            ),
            (r#"{"version":1}"#, ErrorCode::BadRequest, "\"command\""),
            (
                r#"{"version":1,"command":"x"}"#,
                ErrorCode::UnknownCommand,
                "identify",
            ),
            (
                r#"{"version":1,"command":"quit","on":1}"#,
                ErrorCode::BadRequest,
                "no \"on\"",
            ),
            (
                r#"{"version":1,"command":"trace","on":1}"#,
                ErrorCode::BadRequest,
                "true or false",
            ),
            (
                r#"{"version":1,"command":"stats","controller":-1}"#,
                ErrorCode::BadRequest,
                "0 to",
            ),
        ] {
            let error = refused(line);
            assert_eq!(error.code, code, "{line}");
            assert!(error.message.contains(says), "{line}: {}", error.message);
        }
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let lines =
            "\n{\"version\":1,\"command\":\"limits\"}\r\nx\n{\"version\":1,\"command\":\"quit\"}\n";
        for piece in 1..lines.len() {
            let mut conversation = Conversation::default();
            let mut read = Vec::new();
            for bytes in lines.as_bytes().chunks(piece) {
                conversation.give(bytes);
                while let Some(request) = conversation.next() {
                    read.push(request.map_err(|refused| refused.code));
                }
            }
            let wrong = Err(ErrorCode::BadRequest);
            let right = |command| Ok(request(command));
            assert_eq!(read, [right(Command::Limits), wrong, right(Command::Quit)]);
            assert_eq!(conversation.held(), 0);
        }
    }

    #[test]
    fn a_line_without_end_is_refused_once_and_not_kept() {
        let mut conversation = Conversation::default();
        let mut refused = 0;
        for _ in 0..1000 {
            conversation.give(&[b'x'; 1000]);
            while let Some(request) = conversation.next() {
                assert!(request.is_err());
                refused += 1;
            }
            assert!(conversation.held() < MAX_REQUEST);
        }
        conversation.give(b"\n{\"version\":1,\"command\":\"quit\"}\n");
        assert_eq!(conversation.next(), Some(Ok(request(Command::Quit))));
        assert_eq!(refused, 1);
    }

    #[test]
    fn an_answer_that_is_too_large_is_an_error() {
        let line = reply(&Ok(Value::String("x".repeat(MAX_RESPONSE))));
        assert!(line.len() < 1000 && line.contains("too-large"), "{line}");
        assert_eq!(reply(&Ok(json!(1))), "{\"ok\":1,\"version\":1}\n");
    }
}
