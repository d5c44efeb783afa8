//! One debugger's time with the guest.

use std::io;
use std::os::fd::OwnedFd;

use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStubBuilder};
use rustix::event::{PollFd, PollFlags, poll};

use super::client::Client;
use super::guest::{Guest, Reason};
use crate::machine::RunEnded;

/// Bytes of the longest packet a client may send.
const PACKET: usize = 16 * 1024;

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The client detached, or is gone: why.
    Detached(String),
    /// It wants the guest to end.
    Kill,
    /// The guest's run has ended.
    Ended,
}

type Machine<'a> = GdbStubStateMachine<'a, Guest, Client>;

/// Serves a client until it goes or the run ends. `how` waits for the run's end to be known, and
/// says what to tell the client of it.
pub(super) fn serve(
    guest: &mut Guest,
    client: Client,
    events: &OwnedFd,
    how: &dyn Fn() -> Reason,
) -> Left {
    let stub = GdbStubBuilder::new(client)
        .packet_buffer_size(PACKET)
        .build();
    let machine = match stub {
        Ok(stub) => stub.run_state_machine(guest),
        Err(error) => return Left::Detached(error.to_string()),
    };
    let mut machine = match machine {
        Ok(machine) => machine,
        Err(error) => return Left::Detached(error.to_string()),
    };
    loop {
        machine = match turn(machine, guest, events, how) {
            Ok(machine) => machine,
            Err(left) => return left,
        };
    }
}

/// What is to be looked at.
struct Ready {
    client: bool,
    event: bool,
}

/// One step: the client has said something, or the guest has stopped.
fn turn<'a>(
    machine: Machine<'a>,
    guest: &mut Guest,
    events: &OwnedFd,
    how: &dyn Fn() -> Reason,
) -> Result<Machine<'a>, Left> {
    match machine {
        Machine::Idle(mut stub) => {
            let ready = wait(stub.borrow_conn(), events)?;
            if ready.event {
                drain(events);
                if guest.debugger.ended() {
                    return Err(Left::Ended);
                }
            }
            if !ready.client {
                return Ok(stub.into());
            }
            let data = read(stub.borrow_conn())?;
            feed(stub.into(), guest, &data, how)
        }
        Machine::Running(mut stub) => {
            let ready = wait(stub.borrow_conn(), events)?;
            if ready.event {
                drain(events);
                let reason = match guest.stopped(false) {
                    Ok(None) => return Ok(stub.into()),
                    Ok(Some(reason)) => reason,
                    Err(RunEnded) => {
                        let _ = stub.report_stop(guest, how());
                        return Err(Left::Ended);
                    }
                };
                print(stub.borrow_conn(), guest)?;
                return left(stub.report_stop(guest, reason), guest);
            }
            if !ready.client {
                return Ok(stub.into());
            }
            let data = read(stub.borrow_conn())?;
            feed(stub.into(), guest, &data, how)
        }
        // `feed` answers these two at once.
        other => feed(other, guest, &[], how),
    }
}

/// Gives bytes to the stub one by one, through all the states that they lead to.
fn feed<'a>(
    mut machine: Machine<'a>,
    guest: &mut Guest,
    data: &[u8],
    how: &dyn Fn() -> Reason,
) -> Result<Machine<'a>, Left> {
    let mut bytes = data.iter();
    loop {
        machine = match machine {
            Machine::Idle(stub) => match bytes.next() {
                Some(byte) => left(stub.incoming_data(guest, *byte), guest)?,
                None => return Ok(stub.into()),
            },
            Machine::Running(mut stub) => {
                if let Some(reason) = guest.immediate.take() {
                    print(stub.borrow_conn(), guest)?;
                    left(stub.report_stop(guest, reason), guest)?
                } else {
                    match bytes.next() {
                        Some(byte) => left(stub.incoming_data(guest, *byte), guest)?,
                        None => return Ok(stub.into()),
                    }
                }
            }
            Machine::CtrlCInterrupt(stub) => match guest.stopped(true) {
                Ok(reason) => left(stub.interrupt_handled(guest, reason), guest)?,
                Err(RunEnded) => {
                    let _ = stub.interrupt_handled(guest, Some(how()));
                    return Err(Left::Ended);
                }
            },
            Machine::Disconnected(stub) => {
                return Err(match stub.get_reason() {
                    DisconnectReason::Disconnect => Left::Detached("it detached".into()),
                    DisconnectReason::Kill => Left::Kill,
                    DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => {
                        Left::Ended
                    }
                });
            }
        };
    }
}

/// What a failure of the stub's makes of the session.
fn left<'a, E: std::fmt::Display>(
    result: Result<Machine<'a>, E>,
    guest: &Guest,
) -> Result<Machine<'a>, Left> {
    result.map_err(|error| match guest.debugger.ended() {
        true => Left::Ended,
        false => Left::Detached(error.to_string()),
    })
}

fn gone(error: &io::Error) -> Left {
    Left::Detached(error.to_string())
}

fn print(client: &mut Client, guest: &mut Guest) -> Result<(), Left> {
    for note in guest.notes.drain(..) {
        client.print(&note).map_err(|error| gone(&error))?;
    }
    Ok(())
}

fn wait(client: &Client, events: &OwnedFd) -> Result<Ready, Left> {
    let mut fds = [
        PollFd::new(client, PollFlags::IN),
        PollFd::new(events, PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(gone(&error.into())),
    }
    let [client, event] = fds.map(|fd| !fd.revents().is_empty());
    Ok(Ready { client, event })
}

fn read(client: &mut Client) -> Result<Vec<u8>, Left> {
    let mut data = [0; 4096];
    match client.read(&mut data) {
        Ok(0) => Err(Left::Detached("its connection has closed".into())),
        Ok(bytes) => Ok(data.iter().take(bytes).copied().collect()),
        Err(error) => Err(gone(&error)),
    }
}

fn drain(events: &OwnedFd) {
    // Non-blocking; another look at the state follows.
    let _ = rustix::io::read(events, &mut [0; 8]);
}
