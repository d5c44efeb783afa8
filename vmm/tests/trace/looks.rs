//! What is looked at from outside is what the host's commands get.

use std::sync::Arc;

use ferrite::nvme::inprocess::InProcess;
use nvme::CacheMode;
use nvme_host::{Config, Driver, command};
use nvme_spec::{Cns, Csi, FeatureId, feature::Select};

use super::{Told, config, watch};

#[test]
fn identify_from_outside_is_identify() {
    let told = Arc::new(Told::default());
    let mut machine = InProcess::new(config(1, watch(&told)), 9).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    let buffer = driver.alloc(4096).expect("memory");
    let mut answered = 0;
    for cns in 0..=0x1C {
        for nsid in 0..=3 {
            driver.fill(buffer, &[0xA5]);
            let sqe = command::identify(Cns(cns), nsid);
            let asked = driver.exec_data(0, sqe, buffer).expect("completed");
            let looked = driver
                .transport()
                .controller()
                .identify(Cns(cns), nsid, Csi::NVM);
            match asked.status().is_success() {
                true => {
                    let mut data = [0; 4096];
                    driver.copy_from(buffer, &mut data);
                    assert!(looked == Ok(data), "CNS {cns:#x} NSID {nsid}");
                    answered += 1;
                }
                false => {
                    let status = looked.expect_err("refused");
                    assert!(asked.status().same_code(status), "CNS {cns:#x} NSID {nsid}");
                }
            }
        }
    }
    assert!(answered > 10, "{answered}");
}

#[test]
fn features_from_outside_are_get_features_before_and_after_they_are_set_and_reset() {
    let told = Arc::new(Told::default());
    let mut config = config(1, watch(&told));
    config.cache = CacheMode::Volatile;
    let mut machine = InProcess::new(config, 9).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    let buffer = driver.alloc(4096).expect("memory");
    let compare = |driver: &mut Driver<'_, InProcess>| {
        let features = driver.transport().controller().features(0);
        for feature in &features {
            for (select, value) in [
                (Select::Current, feature.current),
                (Select::Default, feature.default),
            ] {
                let mut sqe = command::get_features(feature.fid, select);
                sqe.nsid = feature.nsid.unwrap_or(0);
                let cqe = driver.exec_data(0, sqe, buffer).expect("completed");
                assert!(cqe.status().is_success(), "{:?}", feature.fid);
                assert_eq!(cqe.dw0, value, "{:?} {select:?}", feature.fid);
            }
        }
        let current = |fid| {
            let of = features.iter().find(|feature| feature.fid == fid);
            of.map(|feature| feature.current)
        };
        let all: Vec<FeatureId> = features.iter().map(|feature| feature.fid).collect();
        let there = (0..=u8::MAX).map(FeatureId).filter(|&fid| {
            let sqe = nvme_spec::Sqe {
                nsid: 1,
                ..command::get_features(fid, Select::Supported)
            };
            let cqe = driver.exec(0, sqe).expect("completed");
            cqe.status().is_success()
        });
        for fid in there {
            assert!(all.contains(&fid), "{fid:?}");
        }
        current(FeatureId::VOLATILE_WRITE_CACHE)
    };
    assert_eq!(compare(&mut driver), Some(1));
    let off = command::set_features(FeatureId::VOLATILE_WRITE_CACHE, 0);
    driver.exec(0, off).expect("set");
    assert_eq!(compare(&mut driver), Some(0));
    driver.reset().expect("reset");
    let of_reset = driver.transport().controller().features(0);
    let cache = of_reset
        .iter()
        .find(|feature| feature.fid == FeatureId::VOLATILE_WRITE_CACHE);
    assert_eq!(cache.map(|feature| feature.current), Some(1));
    driver.enable(&Config::default()).expect("enabled");
    assert_eq!(compare(&mut driver), Some(1));
}
