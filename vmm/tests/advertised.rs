//! What the controller says it can do and what it does, walked over every identifier there is.

#![allow(clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use ferrite::nvme::inprocess::InProcess;
use nvme::{CacheMode, ControllerConfig, NamespaceConfig};
use nvme_host::{Config, Driver, command};
use nvme_spec::{
    AdminOpcode, Cns, Csi, FeatureId, LogId, NSID_BROADCAST, NvmOpcode, Sqe, Status,
    feature::Select,
    identify::{
        IdentifyController, LPA_COMMANDS_EFFECTS, LPA_MISCELLANEOUS, OACS_DOORBELL_BUFFER_CONFIG,
        OACS_FORMAT_NVM, OAES_NAMESPACE_ATTRIBUTE, ONCS_COMPARE, ONCS_DATASET_MANAGEMENT,
        ONCS_TIMESTAMP, ONCS_VERIFY, ONCS_WRITE_ZEROES,
    },
    log::{CommandsEffectsLog, FeaturesEffectsLog, SCOPE_NAMESPACE, SupportedLogPages},
    registers::CAP_CSS_IOCSS,
};
use storage::ram::Ram;
use zerocopy::{FromBytes, IntoBytes};

fn with_driver(
    cache: CacheMode,
    work: impl FnOnce(&mut Driver<'_, InProcess>, &IdentifyController),
) {
    let device = Arc::new(Ram::new(64 << 20).expect("memory"));
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(device, 4096)],
        cache,
        ..ControllerConfig::default()
    };
    let mut machine = InProcess::new(config, 1).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    let controller = driver.identify_controller().expect("identify");
    work(&mut driver, &controller);
}

fn log<D: FromBytes + IntoBytes>(driver: &mut Driver<'_, InProcess>, lid: LogId) -> D {
    let mut log = D::new_zeroed();
    driver
        .log_page(lid, NSID_BROADCAST, log.as_mut_bytes())
        .expect("a log that LPA offers");
    log
}

/// Commands that Identify offers, the effects log names and dispatch takes are the same.
#[test]
fn io_commands() {
    with_driver(CacheMode::None, |driver, controller| {
        assert_ne!(controller.lpa & LPA_COMMANDS_EFFECTS, 0);
        let log: CommandsEffectsLog = log(driver, LogId::COMMANDS_SUPPORTED);
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
            assert_eq!(entry.csp() != 0, offered, "{opcode:?}: a scope");
        }
    });
}

#[test]
fn admin_commands() {
    with_driver(CacheMode::None, |driver, controller| {
        assert_eq!(
            controller.oacs,
            OACS_DOORBELL_BUFFER_CONFIG | OACS_FORMAT_NVM,
            "an optional admin command: add it to this test"
        );
        let log: CommandsEffectsLog = log(driver, LogId::COMMANDS_SUPPORTED);
        for code in 0..=u8::MAX {
            let opcode = AdminOpcode(code);
            let offered = match opcode {
                AdminOpcode::DELETE_IO_SQ
                | AdminOpcode::CREATE_IO_SQ
                | AdminOpcode::GET_LOG_PAGE
                | AdminOpcode::DELETE_IO_CQ
                | AdminOpcode::CREATE_IO_CQ
                | AdminOpcode::IDENTIFY
                | AdminOpcode::ABORT
                | AdminOpcode::SET_FEATURES
                | AdminOpcode::GET_FEATURES
                | AdminOpcode::ASYNC_EVENT_REQUEST => true,
                AdminOpcode::KEEP_ALIVE => controller.kas != 0,
                AdminOpcode::DOORBELL_BUFFER_CONFIG => {
                    controller.oacs & OACS_DOORBELL_BUFFER_CONFIG != 0
                }
                AdminOpcode::FORMAT_NVM => controller.oacs & OACS_FORMAT_NVM != 0,
                _ => false,
            };
            let entry = log.acs[usize::from(code)];
            assert_eq!(entry.csupp(), offered, "{opcode:?} in the log");
            assert_eq!(entry.csp() != 0, offered, "{opcode:?}: a scope");
            if opcode == AdminOpcode::ASYNC_EVENT_REQUEST {
                continue; // Not completed, and tested where events are.
            }
            // With every dword 0 none of them changes anything, apart from Doorbell Buffer Config,
            // which this driver does not notice: it goes on by registers.
            let sqe = Sqe {
                opcode: code,
                ..Sqe::default()
            };
            let status = driver.admin(sqe).expect("completed").status();
            let taken = !status.same_code(Status::INVALID_OPCODE);
            assert_eq!(taken, offered, "{opcode:?}: {status:?}");
        }
    });
}

/// A feature that can be read can be asked about, one that says it can be changed can, and the
/// log of features lists it.
#[test]
fn features() {
    for cache in [CacheMode::None, CacheMode::Volatile] {
        with_driver(cache, |driver, controller| {
            let volatile = cache == CacheMode::Volatile;
            assert_eq!(controller.vwc.present(), volatile);
            assert_ne!(controller.lpa & LPA_MISCELLANEOUS, 0);
            let log: FeaturesEffectsLog = log(driver, LogId::FEATURES_SUPPORTED);
            for code in 0..=u8::MAX {
                let fid = FeatureId(code);
                let offered = match fid {
                    FeatureId::VOLATILE_WRITE_CACHE => volatile,
                    FeatureId::TIMESTAMP => controller.oncs & ONCS_TIMESTAMP != 0,
                    FeatureId::KEEP_ALIVE_TIMER => controller.kas != 0,
                    FeatureId::HOST_BEHAVIOR_SUPPORT => true,
                    FeatureId::IO_COMMAND_SET_PROFILE => driver.cap().css() & CAP_CSS_IOCSS != 0,
                    _ => matches!(code, 0x01 | 0x02 | 0x04..=0x0B),
                };
                let entry = log.features[usize::from(code)];
                assert_eq!(entry.fsupp(), offered, "{fid:?} in the log");
                assert_eq!(entry.fsp() != 0, offered, "{fid:?}: a scope");
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
                    let cqe = driver.admin_data(sqe, &mut [0; 512]).expect("completed");
                    assert_eq!(cqe.status().is_success(), offered, "{fid:?} {select:?}");
                }
                // Number of Queues cannot be set once there are queues, and says so.
                let sqe = Sqe {
                    nsid: u32::from(entry.fsp() & SCOPE_NAMESPACE != 0),
                    ..command::set_features(fid, 0)
                };
                let data = driver.alloc(512).expect("memory");
                let status = driver.exec_data(0, sqe, data).expect("completed").status();
                driver.free(data);
                let taken = status.is_success() || status.same_code(Status::COMMAND_SEQUENCE_ERROR);
                assert_eq!(taken, offered, "{fid:?}: {status:?}");
            }
        });
    }
}

#[test]
fn log_pages() {
    with_driver(CacheMode::None, |driver, controller| {
        let listed: SupportedLogPages = log(driver, LogId::SUPPORTED_LOG_PAGES);
        let (lpa, oaes) = (controller.lpa, controller.oaes);
        for code in 0..=u8::MAX {
            let lid = LogId(code);
            let offered = match lid {
                LogId::ERROR_INFORMATION | LogId::SMART | LogId::FIRMWARE_SLOT => true,
                LogId::COMMANDS_SUPPORTED => lpa & LPA_COMMANDS_EFFECTS != 0,
                LogId::CHANGED_NAMESPACES => oaes & OAES_NAMESPACE_ATTRIBUTE != 0,
                LogId::SUPPORTED_LOG_PAGES
                | LogId::FEATURES_SUPPORTED
                | LogId::MI_COMMANDS_SUPPORTED => lpa & LPA_MISCELLANEOUS != 0,
                // Vendor specific: only the list of log pages tells of it.
                LogId::OCP_SMART => listed.pages[usize::from(code)].lsupp(),
                _ => false,
            };
            let sqe = command::get_log_page(lid, NSID_BROADCAST, 16);
            let status = driver.admin_data(sqe, &mut [0; 64]).expect("completed");
            let status = status.status();
            assert_eq!(status.is_success(), offered, "{lid:?}: {status:?}");
            let entry = listed.pages[usize::from(code)];
            assert_eq!(entry.lsupp(), offered, "{lid:?} in the log");
        }
    });
}

#[test]
fn identify_structures() {
    with_driver(CacheMode::None, |driver, _| {
        let sets = driver.cap().css() & CAP_CSS_IOCSS != 0;
        for code in 0..=u8::MAX {
            let cns = Cns(code);
            let offered = match cns {
                Cns::NAMESPACE
                | Cns::CONTROLLER
                | Cns::ACTIVE_NAMESPACES
                | Cns::NAMESPACE_DESCRIPTORS
                | Cns::INDEPENDENT_NAMESPACE => true,
                Cns::CSI_NAMESPACE
                | Cns::CSI_CONTROLLER
                | Cns::CSI_ACTIVE_NAMESPACES
                | Cns::IO_COMMAND_SETS => sets,
                _ => false,
            };
            let sqe = command::identify(cns, 1);
            let status = driver.admin_data(sqe, &mut [0; 4096]).expect("completed");
            let status = status.status();
            assert_eq!(status.is_success(), offered, "{cns:?}: {status:?}");
        }
    });
}

/// What Host Behavior Support, Identify and Get Log Page refuse because Identify Controller does
/// not offer it.
#[test]
fn what_is_not_offered_is_refused() {
    with_driver(CacheMode::None, |driver, controller| {
        assert_eq!(controller.ctratt, 0);
        let fid = FeatureId::HOST_BEHAVIOR_SUPPORT;
        let mut value = [0; 512];
        for (byte, wrong) in [(0, 2), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)] {
            value[byte] = wrong;
            let status = driver.set_feature_data(fid, &value).expect("completed");
            let status = status.status();
            assert!(
                status.same_code(Status::INVALID_FIELD),
                "byte {byte}: {status:?}"
            );
            value[byte] = 0;
        }
        let mut kept = [0xFF; 512];
        driver
            .get_feature_data(fid, Select::Current, &mut kept)
            .expect("read");
        assert_eq!(kept, [0; 512]);

        let sets = command::identify(Cns::IO_COMMAND_SETS, 0);
        let other = command::with_controller(sets, controller.cntlid + 1);
        let zoned = |cns, nsid| command::with_command_set(command::identify(cns, nsid), Csi::ZONED);
        for (sqe, expected) in [
            (other, Status::INVALID_FIELD),
            (zoned(Cns::CSI_NAMESPACE, 1), Status::INVALID_COMMAND_SET),
            (zoned(Cns::CSI_CONTROLLER, 0), Status::INVALID_FIELD),
            (zoned(Cns::CSI_ACTIVE_NAMESPACES, 0), Status::INVALID_FIELD),
        ] {
            let status = driver.admin_data(sqe, &mut [0; 4096]).expect("completed");
            assert!(status.status().same_code(expected), "{sqe:x?}: {status:?}");
        }
    });
}
