//! What the controller says it can do and what it does, walked over every identifier there is.

#![allow(clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use ferrite::nvme::inprocess::InProcess;
use nvme::{CacheMode, ControllerConfig, NamespaceConfig};
use nvme_host::{Config, Driver, command};
use nvme_spec::{
    AdminOpcode, Cns, FeatureId, LogId, NSID_BROADCAST, NvmOpcode, Sqe, Status,
    feature::Select,
    identify::{
        IdentifyController, LPA_COMMANDS_EFFECTS, ONCS_COMPARE, ONCS_DATASET_MANAGEMENT,
        ONCS_VERIFY, ONCS_WRITE_ZEROES,
    },
    log::CommandsEffectsLog,
};
use storage::ram::Ram;
use zerocopy::{FromZeros, IntoBytes};

fn with_driver(work: impl FnOnce(&mut Driver<'_, InProcess>, &IdentifyController)) {
    let device = Arc::new(Ram::new(64 << 20).expect("memory"));
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig {
            device,
            lba_bytes: 4096,
        }],
        cache: CacheMode::Volatile,
        ..ControllerConfig::default()
    };
    let mut machine = InProcess::new(config, 1).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    let controller = driver.identify_controller().expect("identify");
    work(&mut driver, &controller);
}

fn effects(driver: &mut Driver<'_, InProcess>) -> CommandsEffectsLog {
    let mut log = CommandsEffectsLog::new_zeroed();
    driver
        .log_page(
            LogId::COMMANDS_SUPPORTED,
            NSID_BROADCAST,
            log.as_mut_bytes(),
        )
        .expect("the log that LPA offers");
    log
}

/// Commands that Identify offers, the effects log names and dispatch takes are the same.
#[test]
fn io_commands() {
    with_driver(|driver, controller| {
        assert_ne!(controller.lpa & LPA_COMMANDS_EFFECTS, 0);
        let log = effects(driver);
        let oncs = controller.oncs;
        for code in 0..=u8::MAX {
            let opcode = NvmOpcode(code);
            let offered = match opcode {
                NvmOpcode::FLUSH | NvmOpcode::WRITE | NvmOpcode::READ => true,
                NvmOpcode::COMPARE => oncs & ONCS_COMPARE != 0,
                NvmOpcode::DATASET_MANAGEMENT => oncs & ONCS_DATASET_MANAGEMENT != 0,
                NvmOpcode::WRITE_ZEROES => oncs & ONCS_WRITE_ZEROES != 0,
                NvmOpcode::VERIFY => oncs & ONCS_VERIFY != 0,
                _ => false,
            };
            // Beyond the namespace: nothing is changed, whatever the command does.
            let mut sqe = command::nvm(opcode, 1);
            sqe.set_slba(u64::MAX);
            let status = driver.exec(1, sqe).expect("completed").status();
            let taken = !status.same_code(Status::INVALID_OPCODE);
            assert_eq!(taken, offered, "{opcode:?}: {status:?}");
            let entry = log.iocs[usize::from(code)];
            assert_eq!(entry.csupp(), offered, "{opcode:?} in the effects log");
            assert!(entry.csupp() || u32::from(entry) == 0, "{opcode:?}");
        }
    });
}

#[test]
fn admin_commands() {
    with_driver(|driver, controller| {
        assert_eq!(
            controller.oacs, 0,
            "an optional admin command: add it to this test"
        );
        let log = effects(driver);
        for code in 0..=u8::MAX {
            let opcode = AdminOpcode(code);
            let mandatory = matches!(
                opcode,
                AdminOpcode::DELETE_IO_SQ
                    | AdminOpcode::CREATE_IO_SQ
                    | AdminOpcode::GET_LOG_PAGE
                    | AdminOpcode::DELETE_IO_CQ
                    | AdminOpcode::CREATE_IO_CQ
                    | AdminOpcode::IDENTIFY
                    | AdminOpcode::ABORT
                    | AdminOpcode::SET_FEATURES
                    | AdminOpcode::GET_FEATURES
                    | AdminOpcode::ASYNC_EVENT_REQUEST
            );
            assert_eq!(
                log.acs[usize::from(code)].csupp(),
                mandatory,
                "{opcode:?} in the log"
            );
            if opcode == AdminOpcode::ASYNC_EVENT_REQUEST {
                continue; // Not completed, and tested where events are.
            }
            // With every dword 0 none of them changes anything.
            let sqe = Sqe {
                opcode: code,
                ..Sqe::default()
            };
            let status = driver.admin(sqe).expect("completed").status();
            let taken = !status.same_code(Status::INVALID_OPCODE);
            assert_eq!(taken, mandatory, "{opcode:?}: {status:?}");
        }
    });
}

/// A feature that can be read can be asked about, and one that says it can be changed can.
#[test]
fn features() {
    with_driver(|driver, controller| {
        assert!(controller.vwc.present());
        for code in 0..=u8::MAX {
            let fid = FeatureId(code);
            let offered = matches!(code, 0x01 | 0x02 | 0x04..=0x0B);
            for select in [
                Select::Current,
                Select::Default,
                Select::Saved,
                Select::Supported,
            ] {
                let sqe = Sqe {
                    nsid: 1,
                    ..command::get_features(fid, select)
                };
                let cqe = driver.admin(sqe).expect("completed");
                assert_eq!(cqe.status().is_success(), offered, "{fid:?} {select:?}");
            }
            let nsid = if fid == FeatureId::ERROR_RECOVERY {
                1
            } else {
                0
            };
            // Number of Queues cannot be set once there are queues, and says so.
            let sqe = Sqe {
                nsid,
                ..command::set_features(fid, 0)
            };
            let status = driver.admin(sqe).expect("completed").status();
            let taken = status.is_success() || status.same_code(Status::COMMAND_SEQUENCE_ERROR);
            assert_eq!(taken, offered, "{fid:?}: {status:?}");
        }
    });
}

#[test]
fn log_pages_and_identify_structures() {
    with_driver(|driver, _| {
        for code in 0..=u8::MAX {
            let sqe = command::get_log_page(LogId(code), NSID_BROADCAST, 16);
            let status = driver
                .admin_data(sqe, &mut [0; 64])
                .expect("completed")
                .status();
            let offered = matches!(
                LogId(code),
                LogId::ERROR_INFORMATION
                    | LogId::SMART
                    | LogId::FIRMWARE_SLOT
                    | LogId::COMMANDS_SUPPORTED
            );
            assert_eq!(
                status.is_success(),
                offered,
                "{:?}: {status:?}",
                LogId(code)
            );
            let cns = Cns(code);
            let nsid = if cns == Cns::ACTIVE_NAMESPACES { 0 } else { 1 };
            let sqe = command::identify(cns, nsid);
            let status = driver
                .admin_data(sqe, &mut [0; 4096])
                .expect("completed")
                .status();
            assert_eq!(status.is_success(), code <= 3, "{cns:?}: {status:?}");
        }
    });
}
