//! What a run chooses where its configuration leaves something open.

use tetrad::backend::cpu::Cpu;
use tetrad::backend::{DeviceInfo, cuda};
use tetrad::config::Config;
use tetrad::model::{ActivationCheckpointing, GradBuffer, Offload, OffloadConfig};
use tetrad::train::{Limits, autotune, fastest, largest_batch, plan};

fn limits(device: u64) -> Limits {
    Limits { device, host: u64::MAX }
}

fn total(config: &Config, sizes: &dyn DeviceInfo) -> u64 {
    plan(config, sizes).0.total() as u64
}

#[test]
fn what_fits_is_kept_and_less_room_costs_more_time() {
    let config = Config::preset("60m").unwrap();
    for sizes in [&Cpu::new() as &dyn DeviceInfo, &cuda::Info] {
        let first = fastest(&config, sizes);
        assert_eq!((first.run.activation_checkpointing, first.train.micro_batch), (ActivationCheckpointing::None, 16));
        let mut found = autotune(&config, sizes, &limits(u64::MAX)).unwrap();
        assert_eq!(found, first);
        let mut seen = vec![found.clone()];
        // Each time a byte less than what was chosen before.
        while let Some(next) = autotune(&config, sizes, &limits(total(&found, sizes) - 1)) {
            assert!(total(&next, sizes) < total(&found, sizes));
            seen.push(next.clone());
            found = next;
        }
        let last = seen.last().unwrap();
        let away = if sizes.in_place() { Offload::File } else { Offload::Host };
        assert_eq!((last.offload.weights, last.offload.optimizer), (away, away));
        assert!(seen.len() > 4, "{} candidates", seen.len());
    }
}

#[test]
fn what_is_set_stays_set() {
    let mut config = Config::preset("60m").unwrap();
    (config.run.activation_checkpointing, config.train.micro_batch) = (ActivationCheckpointing::Block, 4);
    (config.offload.optimizer, config.run.grad_buffer) = (Offload::Device, GradBuffer::Block);
    let found = autotune(&config, &Cpu::new(), &limits(u64::MAX)).unwrap();
    assert_eq!((found.run.activation_checkpointing, found.train.micro_batch), (ActivationCheckpointing::Block, 4));
    assert_eq!(found.offload.optimizer, Offload::Device);
    assert_eq!(autotune(&config, &Cpu::new(), &limits(1 << 20)), None);
}

#[test]
fn the_machines_memory_is_a_limit_of_its_own() {
    let config = Config::preset("1b").unwrap();
    let device = total(&fastest(&config, &cuda::Info), &cuda::Info) / 4;
    let found = autotune(&config, &cuda::Info, &limits(device)).unwrap();
    assert_eq!(found.offload.optimizer, Offload::Host, "the state leaves the device first");
    let poor = autotune(&config, &cuda::Info, &Limits { device, host: 1 << 20 }).unwrap();
    assert_eq!(poor.offload.optimizer, Offload::File);
}

/// State leaves the device only where it must, also if the weights were sent away.
#[test]
fn what_is_left_open_stays_on_the_device_if_it_fits() {
    let mut config = Config::preset("60m").unwrap();
    for (sizes, away) in [(&Cpu::new() as &dyn DeviceInfo, Offload::File), (&cuda::Info, Offload::Host)] {
        config.offload.weights = away;
        let first = fastest(&config, sizes);
        assert_eq!((first.offload.weights, first.offload.optimizer), (away, Offload::Device));
        let mut last = first;
        while let Some(less) = autotune(&config, sizes, &limits(total(&last, sizes) - 1)) {
            last = less;
        }
        assert_eq!((last.offload.weights, last.offload.optimizer), (away, away));
    }
}

#[test]
fn the_largest_batch_fits_and_one_more_does_not() {
    let mut config = Config::default();
    config.run.activation_checkpointing = ActivationCheckpointing::None;
    config.train.micro_batch = 1 << 20;
    config.offload = OffloadConfig { weights: Offload::Device, optimizer: Offload::Device };
    let of_batch = |batch| {
        let mut config = config.clone();
        config.train.batch = batch;
        total(&config, &Cpu::new())
    };
    let budget = 50 << 20;
    let batch = largest_batch(&config, &Cpu::new(), &limits(budget), 1000).unwrap();
    assert!(of_batch(batch) <= budget && budget < of_batch(batch + 1), "{batch}");
    assert_eq!(largest_batch(&config, &Cpu::new(), &limits(1 << 20), 1000), None);
    assert_eq!(largest_batch(&config, &Cpu::new(), &limits(u64::MAX), 7), Some(7));
}
