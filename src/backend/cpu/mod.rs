//! The operations on a CPU: one file each, over slices. Work is shared out by shape through the ambient rayon pool,
//! so results are the same bits for any number of threads; loops are compiled for each instruction set and the best
//! that the processor has is chosen once. Nothing is allocated: what an operation needs beyond its operands is
//! scratch that was planned.

mod ops;
pub mod reference;
mod simd;
#[cfg(test)]
mod testing;

pub use simd::isa::Isa;

use super::adam::AdamArgs;
use super::{AttentionShape, Axis, Backend, Largest, MomentumArgs, Param, Rotation, Sizes, StateTensor, Store};
use super::{UpdateArgs, UpdateStats, Weight};
use crate::error::BackendError;
use crate::memory::{ALIGN, Arena, Claims, HomeMemory, MappedFile, Place, Span};
use crate::quant::RngKey;
use ops::param_rows::{MomentRows, ParamRows};
use ops::update::Gate;
use ops::weights::Rows;
use ops::{
    activation_pack, activation_quant, adam, attention, attention_grad, bias, embedding, linear, linear_grad_weight,
    loss, norm, normalize, rope, swiglu, update,
};
use simd::tasks::{Need, Scratch};

/// A processor with all its cores. Operations must be called inside the rayon pool in which it was made.
pub struct Cpu {
    isa: Isa,
    threads: usize,
    arena: Arena,
    scratch: Span,
    update_stats: UpdateStats,
    gate: Gate,
}

impl Cpu {
    /// The best instruction set, as many threads as the ambient pool has; without memory until
    /// [`Backend::allocate`].
    pub fn new() -> Self {
        Self::with_isa(Isa::best())
    }

    /// The same with a chosen instruction set.
    pub fn with_isa(isa: Isa) -> Self {
        let threads = rayon::current_num_threads();
        Self {
            isa,
            threads,
            arena: Arena::new(0),
            scratch: Span::NONE,
            update_stats: UpdateStats::default(),
            gate: Gate::default(),
        }
    }

    /// The slices of an operation, its scratch among them.
    fn begin(&mut self) -> (Isa, Scratch<'_>, Claims<'_>) {
        assert_eq!(self.threads, rayon::current_num_threads(), "threads of the pool this backend was made in");
        let mut claims = self.arena.claims();
        let scratch = Scratch::new(claims.write(self.scratch), self.threads);
        (self.isa, scratch, claims)
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Sizes for Cpu {
    fn activation_bytes(&self) -> usize {
        size_of::<f32>()
    }

    fn row_multiple(&self) -> usize {
        1
    }

    fn scratch_bytes(&self, largest: &Largest) -> usize {
        let needs = [
            linear::need(largest),
            linear_grad_weight::need(),
            attention::need(largest),
            attention_grad::need(largest),
            adam::need(largest),
        ];
        let elements = needs.into_iter().map(|need| need.total(self.threads)).max().expect("there are needs");
        (elements * size_of::<f32>()).next_multiple_of(ALIGN)
    }

    /// A chunk of logits is written and read several times; a small one stays in the caches.
    fn logits_bytes(&self) -> usize {
        16 << 20
    }

    fn check_heads(&self, _: usize, _: bool) -> Result<(), BackendError> {
        Ok(())
    }

    fn reads_mapped(&self) -> bool {
        true
    }

    fn free_memory(&self) -> Option<u64> {
        None
    }

    fn works_at_home(&self) -> bool {
        true
    }
}

impl Backend for Cpu {
    fn describe(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        format!("CPU, {} thread{plural}, {}", self.threads, self.isa.name())
    }

    fn allocate(&mut self, bytes: usize, mapped: Option<MappedFile>, scratch: Span) -> Result<(), BackendError> {
        self.arena = match mapped {
            Some(mapped) => Arena::with_mapped(bytes, mapped),
            None => Arena::new(bytes),
        };
        self.scratch = scratch;
        Ok(())
    }

    fn attach(&mut self, home: HomeMemory) -> Result<(), BackendError> {
        match home {
            HomeMemory::File(file) => self.arena.attach(file),
            HomeMemory::Host(_) => panic!("this machine's memory is the arena's"),
        }
        Ok(())
    }

    fn fetch(&mut self, home: Span, to: Span) {
        assert_eq!(home, to, "operations work on home spans");
        let memory = self.arena.home().expect("a home was attached");
        memory.will_need(home.offset, home.bytes);
    }

    fn arrive(&mut self, home: Span, to: Span) {
        assert_eq!(home, to, "operations work on home spans");
    }

    fn leave(&mut self, from: Span, home: Span, changed: bool) {
        assert_eq!(home, from, "operations work on home spans");
        let memory = self.arena.home().expect("a home was attached");
        memory.leave(home.offset, home.bytes, changed);
    }

    fn rest(&self, span: Span) {
        if let (Place::Home, Some(home)) = (span.place, self.arena.home()) {
            home.leave(span.offset, span.bytes, true);
        }
    }

    fn status(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn upload(&mut self, bytes: &[u8], to: Span) {
        self.arena.claims().write(to).copy_from_slice(bytes);
    }

    fn download(&self, from: Span, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.arena.read(from));
    }

    fn zero(&mut self, span: Span) {
        self.arena.claims().write::<u8>(span).fill(0);
    }

    fn copy(&mut self, from: Span, to: Span) {
        let mut claims = self.arena.claims();
        claims.write::<u8>(to).copy_from_slice(claims.read(from));
    }

    fn embedding(&mut self, tokens: Span, table: &Weight, out: Span) {
        let (isa, scratch, mut claims) = self.begin();
        let table = Rows::claim(&mut claims, table);
        embedding::embedding(isa, scratch, claims.read(tokens), &table, claims.write(out));
    }

    fn embedding_grad(&mut self, tokens: Span, dout: Span, grad: Span, features: usize) {
        let (isa, scratch, mut claims) = self.begin();
        let (tokens, dout) = (claims.read(tokens), claims.read(dout));
        embedding::embedding_grad(isa, scratch, tokens, dout, claims.write(grad), features);
    }

    fn rms_norm(&mut self, x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32) {
        let (isa, scratch, mut claims) = self.begin();
        let (x, gain) = (claims.read(x), claims.read(gain));
        norm::rms_norm(isa, scratch, x, gain, claims.write(out), claims.write(inv_rms), eps);
    }

    fn rms_norm_grad(&mut self, x: Span, gain: Span, inv_rms: Span, dout: Span, dx: Span, dgain: Span, store: Store) {
        let (isa, scratch, mut claims) = self.begin();
        let grad = norm::Grad {
            x: claims.read(x),
            gain: claims.read(gain),
            inv_rms: claims.read(inv_rms),
            dout: claims.read(dout),
            dx: claims.write(dx),
            dgain: claims.write(dgain),
        };
        norm::rms_norm_grad(isa, scratch, grad, store);
    }

    fn quantize_activations(&mut self, x: Span, features: usize) {
        let (isa, scratch, mut claims) = self.begin();
        activation_quant::quantize_activations(isa, scratch, claims.write(x), features);
    }

    fn pack_rows(&mut self, x: Span, codes: Span, scales: Span, features: usize, first: usize, key: &RngKey) {
        let (isa, scratch, mut claims) = self.begin();
        let (x, codes, scales) = (claims.read(x), claims.write(codes), claims.write(scales));
        activation_pack::pack_rows(isa, scratch, x, codes, scales, features, (first, key));
    }

    fn unpack_rows(&mut self, codes: Span, scales: Span, x: Span, features: usize) {
        let (isa, scratch, mut claims) = self.begin();
        let (codes, scales) = (claims.read(codes), claims.read(scales));
        activation_pack::unpack_rows(isa, scratch, codes, scales, claims.write(x), features);
    }

    fn linear(&mut self, x: Span, w: &Weight, y: Span, store: Store) {
        let (isa, scratch, mut claims) = self.begin();
        let (x, w) = (claims.read(x), Rows::claim(&mut claims, w));
        linear::linear(isa, scratch, x, &w, claims.write(y), store);
    }

    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, store: Store) {
        let (isa, scratch, mut claims) = self.begin();
        let (dy, w) = (claims.read(dy), Rows::claim(&mut claims, w));
        linear::linear_grad_input(isa, scratch, dy, &w, claims.write(dx), store);
    }

    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, store: Store) {
        let (isa, scratch, mut claims) = self.begin();
        let (dy, x) = (claims.read(dy), claims.read(x));
        linear_grad_weight::linear_grad_weight(isa, scratch, dy, x, claims.write(grad), (rows, cols), store);
    }

    fn rope(&mut self, x: Span, table: Span, rotation: Rotation) {
        let (isa, scratch, mut claims) = self.begin();
        let table = claims.read(table);
        rope::rope(isa, scratch, claims.write(x), table, rotation);
    }

    fn attention(
        &mut self,
        q: Span,
        k: Span,
        v: Span,
        out: Span,
        lse: Span,
        first: Option<Span>,
        shape: AttentionShape,
    ) {
        let (isa, scratch, mut claims) = self.begin();
        let (q, k, v) = (claims.read(q), claims.read(k), claims.read(v));
        let first = first.map(|first| claims.read(first));
        attention::attention(isa, scratch, q, k, v, claims.write(out), claims.write(lse), first, shape);
    }

    fn attention_grad(
        &mut self,
        q: Span,
        k: Span,
        v: Span,
        _: Option<Span>,
        lse: Span,
        dout: Span,
        dq: Span,
        dk: Span,
        dv: Span,
        first: Option<Span>,
        shape: AttentionShape,
    ) {
        let (isa, scratch, mut claims) = self.begin();
        let inputs = attention_grad::Inputs {
            q: claims.read(q),
            k: claims.read(k),
            v: claims.read(v),
            lse: claims.read(lse),
            dout: claims.read(dout),
            first: first.map(|first| claims.read(first)),
        };
        let outputs = attention_grad::Outputs { dq: claims.write(dq), dk: claims.write(dk), dv: claims.write(dv) };
        attention_grad::attention_grad(isa, scratch, inputs, outputs, shape);
    }

    fn swiglu(&mut self, gate: Span, up: Span, out: Span) {
        let (isa, scratch, mut claims) = self.begin();
        let (gate, up) = (claims.read(gate), claims.read(up));
        swiglu::swiglu(isa, scratch, gate, up, claims.write(out));
    }

    fn swiglu_grad(&mut self, gate: Span, up: Span, dout: Span) {
        let (isa, scratch, mut claims) = self.begin();
        let (gate, up) = (claims.write(gate), claims.write(up));
        swiglu::swiglu_grad(isa, scratch, gate, up, claims.read(dout));
    }

    fn cross_entropy(&mut self, logits: Span, targets: Span, losses: Span, vocab: usize, gradient: Option<f32>) {
        let (isa, scratch, mut claims) = self.begin();
        let (logits, targets) = (claims.write(logits), claims.read(targets));
        loss::cross_entropy(isa, scratch, logits, targets, claims.write(losses), vocab, gradient);
    }

    fn adam(&mut self, param: &Param, grad: Span, args: &AdamArgs) {
        let (isa, mut scratch, mut claims) = self.begin();
        let stats = adam::step(isa, &mut scratch, &mut claims, param, grad, args);
        self.update_stats.add(stats);
    }

    fn begin_update(&mut self, grad: Span, freeze_on_zero: bool) {
        let (isa, _, mut claims) = self.begin();
        let (gate, stats) = update::begin(isa, claims.read(grad), freeze_on_zero);
        drop(claims);
        self.gate = gate;
        self.update_stats.add(stats);
    }

    fn momentum(&mut self, param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs) {
        if self.gate != Gate::Open {
            return;
        }
        let (isa, _, mut claims) = self.begin();
        let mut rows = MomentRows::claim(&mut claims, state);
        update::momentum(isa, (param.weight.shape, 0), &mut rows, claims.write(x), args, param.id);
    }

    fn normalize(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, floor: f32) {
        let (isa, mut scratch, mut claims) = self.begin();
        let x = claims.write(x);
        assert_eq!(x.len(), rows * cols, "elements of a matrix");
        match axis {
            Axis::Rows => normalize::rows(isa, x, cols, floor),
            Axis::Cols => {
                let shared = (1 + rows.div_ceil(64)) * cols;
                let (sums, _) = scratch.split(Need { shared, private: 0 });
                normalize::cols(isa, x, cols, floor, sums);
            }
        }
    }

    fn add_weight(&mut self, param: &Param, x: Span, factor: f32) {
        let (isa, _, mut claims) = self.begin();
        let rows = ParamRows::claim_weight(&mut claims, param, Span::NONE);
        update::add_weight(isa, &rows, claims.write(x), factor);
    }

    fn apply_update(&mut self, param: &Param, direction: Span, args: &UpdateArgs) {
        if self.gate == Gate::Shut {
            return;
        }
        let frozen = self.gate == Gate::Frozen;
        let (isa, _, mut claims) = self.begin();
        let mut rows = ParamRows::claim_weight(&mut claims, param, direction);
        let rescales = update::apply(isa, &mut rows, args, frozen, param.id);
        drop(claims);
        self.update_stats.rescales += rescales;
    }

    fn update_stats(&mut self) -> UpdateStats {
        std::mem::take(&mut self.update_stats)
    }

    fn add_bias(&mut self, x: Span, bias: Span, width: usize) {
        let (isa, scratch, mut claims) = self.begin();
        let bias = claims.read(bias);
        bias::add_bias(isa, scratch, claims.write(x), bias, width);
    }

    fn bias_grad(&mut self, dy: Span, grad: Span, width: usize, store: Store) {
        let (isa, scratch, mut claims) = self.begin();
        let dy = claims.read(dy);
        bias::bias_grad(isa, scratch, dy, claims.write(grad), width, store);
    }
}
