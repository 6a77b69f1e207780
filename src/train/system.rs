//! What the operating system says about memory: of this process, and of the machine or its control group.

/// Resident bytes of this process, now and at most so far; `None` where the system does not say.
pub fn resident() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// Bytes that this process can get without driving the machine, or its control group, out of memory: what is free or
/// can be freed. Swap is none of it: a run in it would be as good as stopped. `None` where the system does not say.
pub fn available() -> Option<u64> {
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024;
    Some(left_in_cgroup().map_or(free, |left| left.min(free)))
}

/// Bytes that the control group leaves, if it has a limit; pages of files that nobody uses are given up.
fn left_in_cgroup() -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let most = number(read("max")?)?;
    let used = number(read("current")?)?;
    let stat = read("stat").unwrap_or_default();
    let idle = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok());
    Some(most.saturating_sub(used.saturating_sub(idle.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_known_on_linux() {
        if cfg!(target_os = "linux") {
            let (now, most) = resident().unwrap();
            assert!(now > 0 && most >= now / 2);
            assert!(available().unwrap() > 0);
        }
    }
}
