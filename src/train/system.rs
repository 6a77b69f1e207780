//! What the operating system says about memory: of this process, and of the machine or its control group.

/// Resident bytes of this process, now and at most so far; `None` if the system does not report them.
pub fn resident() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some((kib_field(&status, "VmRSS:")?, kib_field(&status, "VmHWM:")?))
}

/// Bytes that this process can allocate without exhausting the memory of the machine or of its control group: what is
/// free or can be freed. Swap does not count, since a run in swap would hardly advance. `None` if the system does not
/// report it.
pub fn available() -> Option<u64> {
    let free = kib_field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok();
    let group = left_of_group(&read("max").unwrap_or_default(), &read("current").unwrap_or_default(), read("stat"));
    Some(group.map_or(free, |left| left.min(free)))
}

/// Bytes of memory that the machine has, or that its control group allows. `None` if the system does not report them.
pub fn total_memory() -> Option<u64> {
    let machine = kib_field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    Some(group.and_then(|max| max.trim().parse::<u64>().ok()).map_or(machine, |max| max.min(machine)))
}

/// Bytes of the line of `/proc` that starts with `name`, which is in KiB.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Bytes that the control group has left, if it has a limit; inactive file pages count as free.
fn left_of_group(max: &str, current: &str, stat: Option<String>) -> Option<u64> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (most, used) = (number(max)?, number(current)?);
    let stat = stat.unwrap_or_default();
    let idle = stat.lines().find_map(|line| number(line.strip_prefix("inactive_file ")?));
    Some(most.saturating_sub(used.saturating_sub(idle.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_holds_what_is_held() {
        if !cfg!(target_os = "linux") {
            return;
        }
        const HELD: u64 = 96 << 20;
        // Every page is written, so every page is resident.
        let held = vec![1u8; HELD as usize];
        let (now, most) = resident().unwrap();
        assert!(std::hint::black_box(&held).iter().all(|&byte| byte == 1));
        assert!(now >= HELD && most >= now, "{now} bytes resident, {most} at most, {HELD} held");
        let machine = kib_field(&std::fs::read_to_string("/proc/meminfo").unwrap(), "MemTotal:").unwrap();
        let free = available().unwrap();
        assert!(total_memory().unwrap() <= machine);
        assert!(most <= machine && free <= machine, "{most} resident, {free} available, {machine} there are");
    }

    #[test]
    fn what_the_system_says_is_read_in_bytes() {
        let status = "Name:\ttetrad\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t3\n";
        assert_eq!(kib_field(status, "VmRSS:"), Some(10 << 20));
        assert_eq!(kib_field(status, "VmHWM:"), Some(20 << 20));
        assert_eq!(kib_field(status, "VmSwap:"), None);
        assert_eq!(kib_field("VmRSS:\t10 pages\n", "VmRSS:"), None);
    }

    #[test]
    fn a_control_group_leaves_its_limit_less_what_cannot_be_given_up() {
        let stat = || Some("anon 500\ninactive_file 200\nactive_file 50\n".to_owned());
        assert_eq!(left_of_group("1000\n", "700\n", stat()), Some(500));
        assert_eq!(left_of_group("1000\n", "700\n", None), Some(300));
        assert_eq!(left_of_group("1000\n", "1300\n", stat()), Some(0), "more is used than allowed");
        assert_eq!(left_of_group("max\n", "700\n", stat()), None, "no limit");
        assert_eq!(left_of_group("", "", None), None, "no such group");
    }
}
