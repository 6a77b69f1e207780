//! What a run chooses where its configuration leaves something open.

use tetrad::backend::cpu::Cpu;
use tetrad::backend::{DeviceInfo, cuda};
use tetrad::config::Config;
use tetrad::model::{GradientBuffer, KeptActivations, Residence};
use tetrad::train::{Limits, choose, fastest, plan};

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
        assert_eq!((first.run.activations, first.train.micro_batch), (KeptActivations::Keep, 16));
        let mut way = choose(&config, sizes, &limits(u64::MAX)).unwrap();
        assert_eq!(way, first);
        let mut seen = vec![way.clone()];
        // Each time a byte less than what was chosen before.
        while let Some(next) = choose(&config, sizes, &limits(total(&way, sizes) - 1)) {
            assert!(total(&next, sizes) < total(&way, sizes));
            seen.push(next.clone());
            way = next;
        }
        let last = seen.last().unwrap();
        let away = if sizes.in_place() { Residence::File } else { Residence::Host };
        assert_eq!((last.run.weights, last.run.state), (away, away));
        assert!(seen.len() > 4, "{} ways", seen.len());
    }
}

#[test]
fn what_is_set_stays_set() {
    let mut config = Config::preset("60m").unwrap();
    (config.run.activations, config.train.micro_batch) = (KeptActivations::Recompute, 4);
    (config.run.state, config.run.gradient) = (Residence::Device, GradientBuffer::Layer);
    let way = choose(&config, &Cpu::new(), &limits(u64::MAX)).unwrap();
    assert_eq!((way.run.activations, way.train.micro_batch), (KeptActivations::Recompute, 4));
    assert_eq!(way.run.state, Residence::Device);
    assert_eq!(choose(&config, &Cpu::new(), &limits(1 << 20)), None);
}

#[test]
fn the_machines_memory_is_a_limit_of_its_own() {
    let config = Config::preset("1b").unwrap();
    let device = total(&fastest(&config, &cuda::Info), &cuda::Info) / 4;
    let way = choose(&config, &cuda::Info, &limits(device)).unwrap();
    assert_eq!(way.run.state, Residence::Host, "the state leaves the device first");
    let poor = choose(&config, &cuda::Info, &Limits { device, host: 1 << 20 }).unwrap();
    assert_eq!(poor.run.state, Residence::File);
}

/// State leaves the device only where it must, also if the weights were sent away.
#[test]
fn what_is_left_open_stays_on_the_device_if_it_fits() {
    let mut config = Config::preset("60m").unwrap();
    for (sizes, away) in [(&Cpu::new() as &dyn DeviceInfo, Residence::File), (&cuda::Info, Residence::Host)] {
        config.run.weights = away;
        let first = fastest(&config, sizes);
        assert_eq!((first.run.weights, first.run.state), (away, Residence::Device));
        let mut last = first;
        while let Some(less) = choose(&config, sizes, &limits(total(&last, sizes) - 1)) {
            last = less;
        }
        assert_eq!((last.run.weights, last.run.state), (away, away));
    }
}
