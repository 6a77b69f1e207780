//! Which instructions the processor has, and the macro that compiles one loop for each of them.

/// An instruction set that was detected on this processor. There are no other values, so holding one proves that code
/// compiled for it may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

/// What an [`Isa`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 F, BW, DQ, VL; AVX2; FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the compiler assumes for the target.
    Portable,
}

impl Isa {
    /// The instruction sets of this processor, best first; the portable one is always there.
    pub fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, has_avx512()),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, has_avx2()),
            (Level::Portable, true),
        ]
        .into_iter()
        .filter_map(|(level, has)| has.then_some(Self(level)))
    }

    /// The best of them.
    pub fn best() -> Self {
        Self::available().next().expect("the portable one is always there")
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            Level::Portable => "portable",
        }
    }

    #[inline(always)]
    pub(crate) fn level(self) -> Level {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// `a b + c`, fused where the instruction exists (elsewhere `mul_add` would be a slow library call).
#[inline(always)]
pub(crate) fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Declares a function of plain loops that is compiled once per instruction set, for the compiler to vectorize;
/// the caller passes an [`Isa`] first. The body may use `FMA` with [`madd`]. Everything it calls must be inlined.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::backend::cpu::simd::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            // Not every body has a product to fuse.
            #[allow(clippy::extra_unused_type_parameters)]
            #[inline(always)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            match isa.level() {
                // SAFETY: an `Isa` of this level exists only after all of these features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::simd::isa::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::simd::isa::Level::Avx2 => unsafe { avx2($($arg),*) },
                $crate::backend::cpu::simd::isa::Level::Portable => body::<false>($($arg),*),
            }
        }
    };
}
pub(crate) use vectorized;
