//! The audit of the weights' moves on the GPU backend: what it samples is what the device's memory holds, also of
//! parameters that are offloaded.

use crate::harness::gpu;
use crate::harness::small::{batch, config, trainer};
use crate::harness::state::read;
use tetrad::backend::adam::state::SCALARS;
use tetrad::backend::cpu::Cpu;
use tetrad::model::Offload;
use tetrad::train::{Audit, Trainer};

/// Gives `to` the weights of `from`, plane by plane, and the rule's averages of gradients, wherever each of them keeps them.
fn copy_audited(from: &Trainer, to: &mut Trainer) {
    let places = to.model().stored.clone();
    for (from_param, to_param) in from.model().stored.iter().zip(&places) {
        let planes = from_param.weight.planes().into_iter().zip(to_param.weight.planes());
        for (there, here) in planes.filter(|(there, _)| !there.is_none()) {
            to.backend_mut().upload(&read(from, there), here);
        }
        let [there, here] =
            [from_param, to_param].map(|param| param.state.get(SCALARS).expect("Stable-SPAM has them").data);
        to.backend_mut().upload(&read(from, there), here);
    }
}

/// The reference: a trainer on the CPU that is given what the device has before and after each step.
#[test]
fn the_audit_of_a_device_is_that_of_its_weights() {
    let mut config = config();
    (config.train.audit_every, config.optimizer.lr) = (1, 2e-2);
    for offload in [Offload::Device, Offload::Host] {
        let mut mirror = trainer(&config, Box::new(Cpu::new()));
        (config.offload.weights, config.offload.optimizer) = (offload, offload);
        for (name, cuda) in gpu::open_all() {
            let mut device = trainer(&config, Box::new(cuda));
            copy_audited(&device, &mut mirror);
            let (mut audit, mut expected) = (Audit::new(&mut device), Audit::new(&mut mirror));
            for number in 1..=3 {
                let (inputs, targets) = batch(number);
                audit.before(&mut device);
                expected.before(&mut mirror);
                let mut report = device.step(&inputs, &targets);
                let mut mirrored = report;
                assert_eq!(audit.after(&mut device, &mut report), None);
                copy_audited(&device, &mut mirror);
                assert_eq!(expected.after(&mut mirror, &mut mirrored), None);
                let found = report.audit.expect("every step is audited");
                assert_eq!(Some(found), mirrored.audit, "{name}, step {number}, {offload:?}");
                assert!(found.moved_bytes > 0.0 && found.moved_codes > Some(0.0), "{name}: {found:?}");
            }
        }
    }
}
