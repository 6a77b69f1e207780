//! Matrix products by cuBLASLt. Its matrices are column-major, so a row-major product is its transposed product with the
//! operands exchanged.

use super::device::{Device, constant};
use super::libraries::Search;
use super::symbols::{Code, CublasLt};
use crate::error::BackendError;
use crate::memory::Span;
use cudarc::cublaslt::sys as lt;
use cudarc::cublaslt::sys::cublasLtMatmulDescAttributes_t as DescAttribute;
use cudarc::cublaslt::sys::cublasLtMatmulPreferenceAttributes_t as Preference;
use cudarc::cublaslt::sys::cublasLtMatrixLayoutAttribute_t as LayoutAttribute;
use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// More than the shapes of a run, so that the table of plans never grows.
const MOST_PLANS: usize = 512;

/// Which operands of a row-major product `out[m, n] = a b` are transposed in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `a[m, k]` and `b[n, k]`: `y[T, O] = x[T, I] w[O, I]^T`.
    Nt,
    /// `a[m, k]` and `b[k, n]`: `dx[T, I] = dy[T, O] w[O, I]`.
    Nn,
    /// `a[k, m]` and `b[k, n]`: `dw[O, I] = dy[T, O]^T x[T, I]`.
    Tn,
}

/// A row-major matrix in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Begins with its first element and holds all of its rows, the last one without padding.
    pub span: Span,
    /// Elements from one row to the next.
    pub pitch: usize,
}

/// What a product writes; its operands are bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// bfloat16, rounded once from the float32 sum.
    Bf16,
    /// float32
    F32,
}

/// One product of bf16 matrices, summed in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// The layout of the operands.
    pub form: Form,
    /// Rows of the output.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
    /// The left operand.
    pub a: Matrix,
    /// The right operand.
    pub b: Matrix,
    /// The output.
    pub out: Matrix,
    /// The output's type.
    pub output: Output,
    /// What the product is added to, of the output's type and pitch: the output itself, or a matrix that shares nothing with it.
    /// Without one the output's former content is not read.
    pub addend: Option<Matrix>,
    /// How many such products there are.
    pub strided: Strided,
}

/// Products of one shape, whose matrices lie at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strided {
    /// How many.
    pub count: usize,
    /// Elements from one left operand, right operand and output to the next; an operand that all share has 0.
    pub strides: [usize; 3],
}

impl Strided {
    /// A single product.
    pub const ONE: Self = Self { count: 1, strides: [0; 3] };
}

/// What an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    form: Form,
    sizes: [usize; 3],
    pitches: [usize; 3],
    alignments: [u32; 4],
    output: Output,
    strided: Strided,
    added: bool,
}

impl Product {
    fn key(&self, addresses: [u64; 4]) -> Key {
        let [a, b, out] = self.strided.strides;
        let [from, to] = [2, self.output.bytes()];
        let strides = [a * from, b * from, out * to, out * to];
        let alignments = std::array::from_fn(|i| alignment(addresses[i] | strides[i] as u64));
        Key {
            form: self.form,
            sizes: [self.m, self.n, self.k],
            pitches: [self.a, self.b, self.out].map(|matrix| matrix.pitch),
            alignments,
            output: self.output,
            strided: self.strided,
            added: self.addend.is_some(),
        }
    }

    /// Left operand, right operand, output and addend; the output where there is none.
    pub(super) fn matrices(&self) -> [Matrix; 4] {
        [self.a, self.b, self.out, self.addend.unwrap_or(self.out)]
    }

    /// Rows and columns of the operands and the output, as they lie in memory.
    fn shapes(&self) -> [(usize, usize); 3] {
        let (m, n, k) = (self.m, self.n, self.k);
        match self.form {
            Form::Nt => [(m, k), (n, k), (m, n)],
            Form::Nn => [(m, k), (k, n), (m, n)],
            Form::Tn => [(k, m), (k, n), (m, n)],
        }
    }

    /// # Panics
    /// If a matrix is empty, its pitch is shorter than a row, its span does not hold its rows, outputs overlap, or the addend
    /// has another pitch than the output.
    pub(super) fn check(&self) {
        let Strided { count, strides: [a, b, out] } = self.strided;
        let [left, right, rows_out] = self.shapes();
        let to = self.output.bytes();
        let shapes = [(left, a, 2), (right, b, 2), (rows_out, out, to), (rows_out, out, to)];
        for (((rows, columns), stride, element), matrix) in shapes.into_iter().zip(self.matrices()) {
            assert!(rows > 0 && columns > 0 && count > 0, "an empty product: {self:?}");
            assert!(matrix.pitch >= columns, "a pitch of {} for rows of {columns}: {self:?}", matrix.pitch);
            let one = (rows - 1).checked_mul(matrix.pitch).and_then(|all| all.checked_add(columns));
            let elements = one.and_then(|one| (count - 1).checked_mul(stride)?.checked_add(one));
            let bytes = elements.and_then(|all| all.checked_mul(element));
            assert!(bytes.is_some_and(|bytes| bytes <= matrix.span.bytes), "{rows} rows in {:?}", matrix.span);
        }
        let addend = self.addend.unwrap_or(self.out);
        assert!(addend.pitch == self.out.pitch, "an addend of another pitch: {self:?}");
        assert!(count == 1 || out > 0, "outputs in one place: {self:?}");
    }
}

impl Output {
    /// Of an element.
    fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// The largest power of two that divides an address, up to what algorithms ask for at most.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// An object of cuBLASLt, and the function that destroys it.
struct Owned<T> {
    pointer: *mut T,
    destroy: unsafe extern "C" fn(*mut T) -> Code,
}

impl<T> Owned<T> {
    /// Has `create` write a pointer.
    fn new(
        destroy: unsafe extern "C" fn(*mut T) -> Code,
        create: impl FnOnce(*mut *mut T) -> Code,
    ) -> Result<Self, Code> {
        let mut pointer = std::ptr::null_mut();
        done(create(&mut pointer))?;
        Ok(Self { pointer, destroy })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by the library that `destroy` belongs to, and owned.
        unsafe { (self.destroy)(self.pointer) };
    }
}

/// How one shape is computed: what the heuristic chose, found once.
struct Plan {
    operation: Owned<lt::cublasLtMatmulDescOpaque_t>,
    a: Owned<lt::cublasLtMatrixLayoutOpaque_t>,
    b: Owned<lt::cublasLtMatrixLayoutOpaque_t>,
    out: Owned<lt::cublasLtMatrixLayoutOpaque_t>,
    algorithm: lt::cublasLtMatmulAlgo_t,
}

/// Bytes of the workspace: what NVIDIA advises for Hopper, whose kernels split sums over it.
pub(super) const WORKSPACE: usize = 32 << 20;

/// What an algorithm may use.
struct Allowance {
    workspace: usize,
    /// Where sums are split, whether their parts meet in float32; the library's default would also allow bf16, the output's
    /// type.
    float_sums: bool,
}

/// What is asked for in turn: a shape that no algorithm computes as it should is computed all the same.
const ALLOWANCES: [Allowance; 3] = [
    Allowance { workspace: WORKSPACE, float_sums: true },
    Allowance { workspace: WORKSPACE, float_sums: false },
    Allowance { workspace: 0, float_sums: false },
];

/// What the heuristic says where it knows no algorithm.
const NOT_SUPPORTED: Code = lt::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED as Code;

/// cuBLASLt with a plan for every shape it was asked for.
pub(super) struct Products {
    plans: HashMap<Key, Plan>,
    handle: Owned<lt::cublasLtContext>,
    lt: CublasLt,
    workspace: u64,
    device: Arc<Device>,
}

// SAFETY: the handle may be used from any thread in which the device's context is current, and by one at a time, which
// `&mut` sees to.
unsafe impl Send for Products {}

impl Products {
    /// Opens cuBLASLt. The context is current.
    pub(super) fn new(device: &Arc<Device>, search: &Search) -> Result<Self, BackendError> {
        let lt = search.cublaslt(device.supports)?.symbols;
        // SAFETY: the context is current; the handle is written where `Owned` keeps it.
        let handle = Owned::new(lt.cublasLtDestroy, |to| unsafe { (lt.cublasLtCreate)(to) });
        let handle = handle.map_err(|code| device.failed("opening cuBLASLt", &text(&lt, code)))?;
        Ok(Self { plans: HashMap::with_capacity(MOST_PLANS), handle, lt, workspace: 0, device: device.clone() })
    }

    /// The library and its version.
    pub(super) fn version(&self) -> String {
        // SAFETY: it takes nothing and cannot fail.
        let version = unsafe { (self.lt.cublasLtGetVersion)() };
        format!("cuBLASLt {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// Where the workspace lies.
    ///
    /// # Safety
    /// [`WORKSPACE`] bytes of device memory, which lives as long as products are computed.
    pub(super) unsafe fn set_workspace(&mut self, address: u64) {
        self.workspace = address;
    }

    /// Computes a product, or several, of the matrices at `[a, b, out, addend]`.
    ///
    /// # Safety
    /// The product was checked, the addresses are those of its spans in memory that lives, and the context is current.
    pub(super) unsafe fn multiply(&mut self, product: &Product, at: [u64; 4]) -> Result<(), BackendError> {
        let ([a, b, out, addend], key) = (at, product.key(at));
        if !self.plans.contains_key(&key) {
            let plan = self.plan(product, &key).map_err(|code| self.failed(product, code))?;
            self.plans.insert(key, plan);
        }
        let plan = &self.plans[&key];
        let (one, beta) = (1f32, if key.added { 1f32 } else { 0f32 });
        let pointer = |number: &f32| std::ptr::from_ref(number).cast::<c_void>();
        // SAFETY: plan and handle live; the factors are float32, as the operation says, and read before the call
        // returns; the caller gives the addresses of such matrices. The workspace is as large as the algorithm was
        // allowed.
        let code = unsafe {
            (self.lt.cublasLtMatmul)(
                self.handle.pointer,
                plan.operation.pointer,
                pointer(&one),
                b as *const c_void,
                plan.b.pointer,
                a as *const c_void,
                plan.a.pointer,
                pointer(&beta),
                addend as *const c_void,
                plan.out.pointer,
                out as *mut c_void,
                plan.out.pointer,
                &plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                self.device.stream,
            )
        };
        done(code).map_err(|code| self.failed(product, code))
    }

    fn plan(&self, product: &Product, key: &Key) -> Result<Plan, Code> {
        let output = match product.output {
            Output::Bf16 => lt::cudaDataType::CUDA_R_16BF,
            Output::F32 => lt::cudaDataType::CUDA_R_32F,
        };
        let [a, b, out] = product.shapes();
        let operands = lt::cudaDataType::CUDA_R_16BF;
        let Strided { count, strides } = product.strided;
        let a = self.layout(operands, a, product.a.pitch, (count, strides[0]))?;
        let b = self.layout(operands, b, product.b.pitch, (count, strides[1]))?;
        let out = self.layout(output, out, product.out.pitch, (count, strides[2]))?;
        let operation = self.operation(product.form)?;
        for allowance in ALLOWANCES {
            match self.algorithm(&operation, [&a, &b, &out], key, &allowance) {
                Ok(algorithm) => return Ok(Plan { operation, a, b, out, algorithm }),
                Err(NOT_SUPPORTED) => {}
                Err(code) => return Err(code),
            }
        }
        Err(NOT_SUPPORTED)
    }

    /// What the heuristic chooses, given what an algorithm may use.
    fn algorithm(
        &self,
        operation: &Owned<lt::cublasLtMatmulDescOpaque_t>,
        [a, b, out]: [&Owned<lt::cublasLtMatrixLayoutOpaque_t>; 3],
        key: &Key,
        allowance: &Allowance,
    ) -> Result<lt::cublasLtMatmulAlgo_t, Code> {
        let preference = self.preference(key, allowance)?;
        let mut found = MaybeUninit::<lt::cublasLtMatmulHeuristicResult_t>::zeroed();
        let mut count = 0;
        // SAFETY: all handles live; there is room for the one result that is asked for.
        done(unsafe {
            (self.lt.cublasLtMatmulAlgoGetHeuristic)(
                self.handle.pointer,
                operation.pointer,
                b.pointer,
                a.pointer,
                out.pointer,
                out.pointer,
                preference.pointer,
                1,
                found.as_mut_ptr(),
                &mut count,
            )
        })?;
        if count < 1 {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: one result was written; zero is a value of each of its fields.
        let found = unsafe { found.assume_init() };
        done(found.state as Code)?;
        Ok(found.algo)
    }

    /// A row-major matrix is the column-major one with rows and columns exchanged.
    fn layout(
        &self,
        element: lt::cudaDataType,
        (rows, columns): (usize, usize),
        pitch: usize,
        (count, stride): (usize, usize),
    ) -> Result<Owned<lt::cublasLtMatrixLayoutOpaque_t>, Code> {
        let (rows, columns) = (rows as u64, columns as u64);
        let layout = Owned::new(self.lt.cublasLtMatrixLayoutDestroy, |to| {
            // SAFETY: the layout is written where `Owned` keeps it.
            unsafe { (self.lt.cublasLtMatrixLayoutCreate)(to, element as u32, columns, rows, pitch as i64) }
        })?;
        let set = |attribute: LayoutAttribute, value: *const c_void, bytes| {
            // SAFETY: the layout lives; the caller's value has the length given and is copied.
            done(unsafe { (self.lt.cublasLtMatrixLayoutSetAttribute)(layout.pointer, attribute as u32, value, bytes) })
        };
        if count > 1 {
            let (count, stride) = (count as i32, stride as i64);
            let (count, stride) = (std::ptr::from_ref(&count).cast(), std::ptr::from_ref(&stride).cast());
            set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count, 4)?;
            set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride, 8)?;
        }
        Ok(layout)
    }

    /// float32 sums and factors. cuBLASLt's first operand is our second.
    fn operation(&self, form: Form) -> Result<Owned<lt::cublasLtMatmulDescOpaque_t>, Code> {
        let compute = lt::cublasComputeType_t::CUBLAS_COMPUTE_32F as u32;
        let scale = lt::cudaDataType::CUDA_R_32F as u32;
        let operation = Owned::new(self.lt.cublasLtMatmulDescDestroy, |to| {
            // SAFETY: the operation is written where `Owned` keeps it.
            unsafe { (self.lt.cublasLtMatmulDescCreate)(to, compute, scale) }
        })?;
        let flags = [
            (DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, form == Form::Nt),
            (DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, form == Form::Tn),
        ];
        for (attribute, flag) in flags {
            // CUBLAS_OP_N and CUBLAS_OP_T, whose enumeration is cuBLAS's own.
            let flag = u32::from(flag);
            let value = std::ptr::from_ref(&flag).cast();
            // SAFETY: the operation lives; the value has the length given and is copied.
            done(unsafe { (self.lt.cublasLtMatmulDescSetAttribute)(operation.pointer, attribute as u32, value, 4) })?;
        }
        Ok(operation)
    }

    fn preference(
        &self,
        key: &Key,
        allowance: &Allowance,
    ) -> Result<Owned<lt::cublasLtMatmulPreferenceOpaque_t>, Code> {
        let preference = Owned::new(self.lt.cublasLtMatmulPreferenceDestroy, |to| {
            // SAFETY: the preference is written where `Owned` keeps it.
            unsafe { (self.lt.cublasLtMatmulPreferenceCreate)(to) }
        })?;
        let set = |attribute: Preference, value: *const c_void, bytes| {
            let attribute = attribute as u32;
            // SAFETY: the preference lives; the caller's value has the length given and is copied.
            done(unsafe { (self.lt.cublasLtMatmulPreferenceSetAttribute)(preference.pointer, attribute, value, bytes) })
        };
        let workspace = allowance.workspace as u64;
        set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::ptr::from_ref(&workspace).cast(), 8)?;
        if allowance.float_sums {
            let mask = lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            let mask = std::ptr::from_ref(&mask).cast();
            set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, mask, 4)?;
        }
        let [a, b, out, addend] = key.alignments;
        let numbers = [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, addend),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ];
        for (attribute, number) in numbers {
            set(attribute, std::ptr::from_ref(&number).cast(), 4)?;
        }
        Ok(preference)
    }

    fn failed(&self, product: &Product, code: Code) -> BackendError {
        let Product { form, m, n, k, output, strided, .. } = product;
        let [a, b, out] = [product.a, product.b, product.out].map(|matrix| matrix.pitch);
        let count = if strided.count > 1 { format!("{} times ", strided.count) } else { String::new() };
        let what =
            format!("multiply {count}{form:?}, m {m}, n {n}, k {k}, rows {a}, {b} and {out} apart, to {output:?}");
        self.device.failed(&what, &text(&self.lt, code))
    }
}

fn done(code: Code) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(code) }
}

fn text(lt: &CublasLt, code: Code) -> String {
    // SAFETY: cuBLASLt gives constant strings.
    unsafe { constant((lt.cublasLtGetStatusName)(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alignment_is_what_divides_the_address() {
        let cases = [(0x7f00_0000_0000, 256), (0x7f00_0000_0040, 64), (0x7f00_0000_001a, 2), (0x7f00_0000_0001, 1)];
        for (address, expected) in cases {
            assert_eq!(alignment(address), expected, "{address:#x}");
        }
    }
}
