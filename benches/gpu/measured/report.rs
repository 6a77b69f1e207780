//! One Markdown table.

/// What the device can do, measured here.
pub struct Ceilings {
    /// Bytes read and written per second by a device copy.
    pub copy: f64,
    /// Operations per second of a bf16 product of `edge` x `edge` x `edge`.
    pub product: f64,
    /// Rows and columns of that product.
    pub edge: usize,
}

/// Rows of kernels, each printed when it is known.
pub struct Table {
    ceilings: Ceilings,
}

impl Table {
    /// Prints the head.
    pub fn begin(ceilings: Ceilings) -> Self {
        println!("| kernel | shape | us | rate | share |\n| --- | --- | ---: | ---: | --- |");
        Self { ceilings }
    }

    fn add(&mut self, name: &str, shape: &str, seconds: f64, rate: String, share: String) {
        println!("| {name} | {shape} | {:.1} | {rate} | {share} |", seconds * 1e6);
    }

    /// A kernel that must move `bytes`.
    pub fn bandwidth(&mut self, name: &str, shape: &str, seconds: f64, bytes: usize) {
        let rate = bytes as f64 / seconds;
        let share = format!("{:.0} % of copy", 100.0 * rate / self.ceilings.copy);
        self.add(name, shape, seconds, format!("{:.0} GB/s", rate / 1e9), share);
    }

    /// A kernel that computes `work` operations.
    pub fn rate(&mut self, name: &str, shape: &str, seconds: f64, work: f64) {
        let rate = work / seconds;
        let share = self.of_products(rate);
        self.add(name, shape, seconds, format!("{:.0} TFLOP/s", rate / 1e12), share);
    }

    /// The same beside cuBLASLt alone, which takes `plain` seconds for this shape.
    pub fn product(&mut self, name: &str, shape: &str, seconds: f64, work: f64, plain: f64) {
        let rate = work / seconds;
        let share = format!("{:.0} % of cuBLASLt alone, {}", 100.0 * plain / seconds, self.of_products(rate));
        self.add(name, shape, seconds, format!("{:.0} TFLOP/s", rate / 1e12), share);
    }

    fn of_products(&self, rate: f64) -> String {
        format!("{:.0} % of {}^3", 100.0 * rate / self.ceilings.product, self.ceilings.edge)
    }
}
