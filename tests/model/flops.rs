//! The arithmetic of a step.

use tetrad::backend::cpu::Cpu;
use tetrad::config::Config;
use tetrad::train::plan;

#[test]
fn a_step_is_about_six_for_each_weight_and_token() {
    let config = Config::preset("60m").unwrap();
    let (_, model) = plan(&config, &Cpu::new());
    let (h, f, layers, vocab) = (512.0, 1376.0, 8.0, 32000.0);
    let weights = layers * (4.0 * h * h + 3.0 * h * f) + vocab * h;
    // 4 sequences of 256: three times two products of 256 x 257 / 2 pairs, each 512 multiplications and additions.
    let attention = layers * 6.0 * (4.0 * 256.0 * 257.0 / 2.0) * 2.0 * h;
    assert_eq!(model.step_flops(4, 256), 6.0 * weights * 1024.0 + attention);
}
