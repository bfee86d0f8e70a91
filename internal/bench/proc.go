package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of CPU times in /proc: USER_HZ, which is 100 on every architecture of Linux that Debian has.
const tick = 10 * time.Millisecond

// cpuTimes are CPU times since some beginning.
type cpuTimes struct {
	postgres, s3, self, machine time.Duration
}

func (m *meter) readCPU() (times cpuTimes, err error) {
	if pid := m.postgres(); pid != 0 {
		if times.postgres, err = treeCPU(pid); err != nil {
			return times, err
		}
	}
	if pid := m.s3(); pid != 0 {
		if times.s3, err = treeCPU(pid); err != nil {
			return times, err
		}
	}
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return times, fmt.Errorf("read CPU times of the machine: %w", err)
	}
	if times.machine, err = parseMachineCPU(content); err != nil {
		return times, err
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return times, fmt.Errorf("read CPU times of this process: %w", err)
	}
	times.self = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	return times, nil
}

// processStat is what /proc/PID/stat says (proc_pid_stat(5)).
type processStat struct {
	parent int
	// own is CPU time of the process, waited that of its children that have ended and were waited for.
	own, waited time.Duration
}

func parseProcessStat(content []byte) (processStat, error) {
	// The second field is the program's name in parentheses, and may hold anything.
	end := bytes.LastIndexByte(content, ')')
	if end < 0 {
		return processStat{}, errors.New("no name in the state of a process")
	}
	fields := strings.Fields(string(content[end+1:])) // from field 3, the state, on
	if len(fields) < 15 {
		return processStat{}, fmt.Errorf("%d fields in the state of a process", len(fields))
	}
	var numbers [5]int64
	for i, field := range []int{4, 14, 15, 16, 17} {
		number, err := strconv.ParseInt(fields[field-3], 10, 64)
		if err != nil {
			return processStat{}, fmt.Errorf("field %d of the state of a process: %w", field, err)
		}
		numbers[i] = number
	}
	return processStat{
		parent: int(numbers[0]), own: time.Duration(numbers[1]+numbers[2]) * tick, waited: time.Duration(numbers[3]+numbers[4]) * tick,
	}, nil
}

// treeCPU returns the CPU time of a process, of its children, and of all that it waited for: for PostgreSQL the postmaster and
// all backends, also those that have ended.
func treeCPU(pid int) (time.Duration, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU times of a server: %w", err)
	}
	stat, err := parseProcessStat(content)
	if err != nil {
		return 0, err
	}
	sum := stat.own + stat.waited
	for _, child := range descendants(pid) {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil {
			continue // ended just now, and counted with its parent the next time
		}
		stat, err := parseProcessStat(content)
		if err != nil {
			return 0, err
		}
		sum += stat.own + stat.waited
	}
	return sum, nil
}

// descendants returns the living descendants of a process.
func descendants(pid int) []int {
	var all []int
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil // the pattern is not at fault
	}
	for _, list := range lists {
		content, err := os.ReadFile(list)
		if err != nil {
			continue // ended
		}
		for field := range strings.FieldsSeq(string(content)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			all = append(append(all, child), descendants(child)...)
		}
	}
	return all
}

// parseMachineCPU returns from /proc/stat the time that all CPUs of the machine were busy, without what guests of it
// used, which is counted twice, and without what a hypervisor took away.
func parseMachineCPU(content []byte) (time.Duration, error) {
	line, _, _ := strings.Cut(string(content), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var sum time.Duration
	for i, field := range fields[1:8] { // user nice system idle iowait irq softirq
		if i == 3 || i == 4 {
			continue
		}
		number, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += time.Duration(number) * tick
	}
	return sum, nil
}

// residentOf returns the highest and the present resident set of a process in bytes; zeros when it has ended.
func residentOf(pid int) (highest, now int64) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name != "VmHWM" && name != "VmRSS" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
		if err != nil {
			return highest, now
		}
		if name == "VmHWM" {
			highest = kib << 10
		} else {
			now = kib << 10
		}
	}
	return highest, now
}
