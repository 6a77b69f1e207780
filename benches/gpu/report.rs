//! One Markdown table.

/// What the device can do, measured here.
pub struct Ceilings {
    /// Bytes read and written per second by a device copy of 1 GiB.
    pub copy: f64,
    /// Operations per second of a bf16 product of 8192 x 8192 x 8192.
    pub product: f64,
}

/// Rows of kernels.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 5]>,
}

impl Table {
    fn add(&mut self, name: &str, shape: &str, seconds: f64, rate: String, share: String) {
        eprintln!("{name} | {shape} | {:.1} us | {rate} | {share}", seconds * 1e6);
        self.rows.push([name.into(), shape.into(), format!("{:.1}", seconds * 1e6), rate, share]);
    }

    /// A kernel that must move `bytes`.
    pub fn bandwidth(&mut self, name: &str, shape: &str, seconds: f64, bytes: usize, ceilings: &Ceilings) {
        let rate = bytes as f64 / seconds;
        let share = format!("{:.0} % of copy", 100.0 * rate / ceilings.copy);
        self.add(name, shape, seconds, format!("{:.0} GB/s", rate / 1e9), share);
    }

    /// A kernel that computes `work` operations.
    pub fn rate(&mut self, name: &str, shape: &str, seconds: f64, work: f64, ceilings: &Ceilings) {
        let rate = work / seconds;
        let share = format!("{:.0} % of 8192^3", 100.0 * rate / ceilings.product);
        self.add(name, shape, seconds, format!("{:.0} TFLOP/s", rate / 1e12), share);
    }

    /// The same beside cuBLASLt alone, which takes `plain` seconds for this shape.
    pub fn product(&mut self, name: &str, shape: &str, seconds: f64, work: f64, plain: f64, ceilings: &Ceilings) {
        let rate = work / seconds;
        let own =
            format!("{:.0} % of cuBLASLt, {:.0} % of 8192^3", 100.0 * plain / seconds, 100.0 * rate / ceilings.product);
        self.add(name, shape, seconds, format!("{:.0} TFLOP/s", rate / 1e12), own);
    }

    /// All rows.
    pub fn print(&self) {
        println!("| kernel | shape | us | rate | share |\n| --- | --- | ---: | ---: | --- |");
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
        println!();
    }
}
