//! Adapters recorded from PEFT, or from plain PyTorch where PEFT has none, beside the recorded LLaMA: logits, loss, every
//! gradient, and 20 AdamW losses.

use crate::harness::Golden;
use crate::harness::adapter::{RecordedAdapter, recorded, recorded_bottleneck, recorded_lora, recorded_prefix};
use crate::harness::masked::Masked;
use crate::harness::operands::assert_near;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Backend, Param};
use tetrad::memory::Span;
use tetrad::model::{
    ActivationCheckpointing, AdapterConfig, AdapterParam, AdapterPart, AdapterPlace, AdapterScale, Batch, ParamKind,
    Purpose, param_specs,
};
use zerocopy::IntoBytes;

/// The agreement that the recordings ask for.
const ABSOLUTE: f64 = 2e-5;
const RELATIVE: f64 = 2e-4;

fn download(backend: &dyn Backend, span: Span) -> Vec<f32> {
    let mut out = vec![0.0f32; span.bytes / 4];
    backend.download(span, out.as_mut_bytes());
    out
}

fn logits_loss_and_gradients(name: &str, adapter: AdapterConfig) {
    logits_loss_and_gradients_by(name, adapter, |_| Box::new(Cpu::new()));
}

/// The same by a backend that is given the run.
fn logits_loss_and_gradients_by(
    name: &str,
    adapter: AdapterConfig,
    backend: impl Fn(&RecordedAdapter) -> Box<dyn Backend>,
) {
    for kept in [ActivationCheckpointing::None, ActivationCheckpointing::Block] {
        let mut run = RecordedAdapter::load(name, adapter.clone());
        run.config.run.activation_checkpointing = kept;
        let mut trainer = run.trainer(backend(&run), &run.golden);
        let pass = Batch { purpose: Purpose::Step(1), ..run.base.batch() };
        let (model, backend) = trainer.model_and_backend();
        backend.upload(run.base.inputs.as_bytes(), model.acts.inputs);
        backend.upload(run.base.targets.as_bytes(), model.acts.targets);
        model.forward(backend, pass);
        let logits = model.logits(backend, pass, (0, pass.tokens()));
        assert_near(&download(backend, logits), run.golden.numbers("logits"), ABSOLUTE, RELATIVE, "logits");
        let counted = run.base.targets.len();
        model.loss_and_head_grad(backend, pass, 1.0 / counted as f32);
        let losses = download(backend, model.acts.losses);
        let loss = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / counted as f64;
        assert_near(&[loss as f32], run.golden.numbers("loss"), ABSOLUTE, RELATIVE, "loss");
        let mut seen = Vec::new();
        let mut compare = |backend: &mut dyn Backend, param: &Param, grad: Span| {
            let kind = model.specs[param.id as usize].kind;
            let expected = recorded(&run.golden, "grad.", kind).expect("only adapters have gradients");
            let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
            assert_near(&download(backend, grad), &expected, ABSOLUTE, RELATIVE, &kind.name());
            seen.push(param.id);
        };
        model.backward(backend, pass, 1.0 / counted as f32, &mut compare);
        seen.sort_unstable();
        let trained: Vec<_> = model.specs.iter().filter(|spec| spec.kind.is_adapter()).map(|spec| spec.id).collect();
        assert_eq!(seen, trained, "every tensor of the adapter got its gradient, once");
        let recorded = run.golden.tensors.iter().filter(|(name, _)| name.starts_with("grad."));
        let numbers: usize = recorded.map(|(_, (_, values))| values.len()).sum();
        let ours: usize = seen.iter().map(|&id| model.specs[id as usize].shape.len()).sum();
        assert_eq!(ours, numbers, "and there are no others");
    }
}

fn twenty_losses(run: &RecordedAdapter, values: &Golden, losses: &str) {
    let mut trainer = run.trainer(Box::new(Cpu::new()), values);
    for (i, &wanted) in run.golden.numbers(losses).iter().enumerate() {
        let report = trainer.step(&run.base.inputs, &run.base.targets);
        assert_near(&[report.loss as f32], &[wanted], 0.0, 2e-3, &format!("loss before step {}", i + 1));
    }
}

fn lora() -> AdapterConfig {
    recorded_lora(&["all"], AdapterScale::AlphaOverRank)
}

fn lae() -> AdapterConfig {
    recorded_lora(&["k", "v"], AdapterScale::Learned)
}

#[test]
fn golden_lora_logits_loss_gradients() {
    logits_loss_and_gradients("lora", lora());
}

#[test]
fn golden_lora_adamw_losses() {
    let run = RecordedAdapter::load("lora", lora());
    twenty_losses(&run, &run.golden, "adamw_losses");
}

#[test]
fn golden_rslora_logits_loss_gradients() {
    logits_loss_and_gradients("rslora", recorded_lora(&["all"], AdapterScale::RsLora));
}

#[test]
fn golden_lora_patterns_logits_loss_gradients() {
    let list = |texts: &[&str]| texts.iter().map(|&text| text.into()).collect();
    let patterns = AdapterConfig {
        rank_pattern: list(&["q_proj=2", "layers.0.mlp.down_proj=3", "layers.1.mlp.down_proj=6"]),
        alpha_pattern: list(&["q_proj=3"]),
        ..recorded_lora(&["q", "v", "down"], AdapterScale::AlphaOverRank)
    };
    logits_loss_and_gradients("lora_patterns", patterns);
}

#[test]
fn golden_lora_group_logits_loss_gradients() {
    logits_loss_and_gradients("lora_group", AdapterConfig { group: true, ..lora() });
}

#[test]
fn golden_lora_lae_logits_loss_gradients() {
    logits_loss_and_gradients("lora_lae", lae());
}

#[test]
fn golden_lora_lae_adamw_losses() {
    let run = RecordedAdapter::load("lora_lae", lae());
    twenty_losses(&run, &run.golden, "adamw_losses");
}

#[test]
fn golden_lora_plus_adamw_losses() {
    let mut run = RecordedAdapter::load("lora_plus", AdapterConfig { rate_b: 16.0, ..lora() });
    run.config.optimizer.lr = 1e-3;
    twenty_losses(&run, &Golden::load("adapters/lora"), "losses");
}

/// PEFT's prefix; the same with LAE's learned scales; with its compensation too.
fn prefixes() -> [(&'static str, AdapterConfig); 3] {
    use AdapterScale::{AlphaOverRank, Learned};
    [("prefix", AlphaOverRank, false), ("prefix_scaled", Learned, false), ("prefix_lae", Learned, true)]
        .map(|(name, scale, compensate)| (name, recorded_prefix(scale, compensate)))
}

#[test]
fn golden_prefix_logits_loss_gradients() {
    prefixes().into_iter().for_each(|(name, adapter)| logits_loss_and_gradients(name, adapter));
}

#[test]
fn golden_prefix_adamw_losses() {
    for (name, adapter) in prefixes() {
        let run = RecordedAdapter::load(name, adapter);
        twenty_losses(&run, &run.golden, "adamw_losses");
    }
}

/// LAE's adapter beside the attention, and beside the MLP.
const BOTTLENECKS: [(&str, AdapterPlace); 2] =
    [("adapter_attn", AdapterPlace::Attention), ("adapter_mlp", AdapterPlace::FeedForward)];

#[test]
fn golden_bottleneck_logits_loss_gradients() {
    BOTTLENECKS.into_iter().for_each(|(name, place)| logits_loss_and_gradients(name, recorded_bottleneck(place)));
}

#[test]
fn golden_bottleneck_adamw_losses() {
    for (name, place) in BOTTLENECKS {
        let run = RecordedAdapter::load(name, recorded_bottleneck(place));
        twenty_losses(&run, &run.golden, "adamw_losses");
    }
}

fn dora() -> AdapterConfig {
    AdapterConfig { magnitude: true, ..lora() }
}

#[test]
fn golden_dora_logits_loss_gradients() {
    logits_loss_and_gradients("dora", dora());
}

#[test]
fn golden_dora_adamw_losses() {
    let run = RecordedAdapter::load("dora", dora());
    twenty_losses(&run, &run.golden, "adamw_losses");
}

/// With the inputs left out that PEFT's random numbers left out.
#[test]
fn golden_lora_dropout_logits_loss_gradients() {
    let adapter = AdapterConfig { dropout: 0.25, ..recorded_lora(&["q", "down"], AdapterScale::AlphaOverRank) };
    logits_loss_and_gradients_by("lora_dropout", adapter, |run| {
        let kept = param_specs(&run.config.settings()).into_iter().filter_map(|spec| match spec.kind {
            ParamKind::Adapter(AdapterParam { part: AdapterPart::A, site, .. }) => {
                Some((spec.id, run.golden.floats(&format!("kept.{}", site.path()))))
            }
            _ => None,
        });
        Box::new(Masked::new(kept.collect()))
    });
}
