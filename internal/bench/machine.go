package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what was measured on.
type machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	System      string `json:"system"`
	// Disk names the device below the working directory and its kind.
	Disk string `json:"disk"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s of memory, %s, %s, disk %s", m.CPU, m.Cores, formatBytes(m.MemoryBytes), m.System, m.Kernel, m.Disk)
}

// describeMachine describes the machine, and the disk below dir. What cannot be found out is "unknown".
func describeMachine(dir string) (machine, error) {
	described := machine{CPU: "unknown CPU", Cores: runtime.NumCPU(), System: "unknown system", Disk: "unknown"}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return described, fmt.Errorf("describe the machine: %w", err)
	}
	described.Kernel = "Linux " + unix.ByteSliceToString(name.Release[:])
	if value, found := lineOf("/proc/cpuinfo", "model name"); found {
		described.CPU = strings.TrimSpace(strings.TrimPrefix(value, ":"))
	}
	if value, found := lineOf("/proc/meminfo", "MemTotal:"); found {
		if kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64); err == nil {
			described.MemoryBytes = kib << 10
		}
	}
	if value, found := lineOf("/etc/os-release", "PRETTY_NAME="); found {
		described.System = strings.Trim(value, `"`)
	}
	disk, err := describeDisk(dir)
	if err == nil {
		described.Disk = disk
	}
	return described, nil
}

// lineOf returns what comes after prefix in the first line of a file that begins with it.
func lineOf(path, prefix string) (string, bool) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(content)) {
		if rest, found := strings.CutPrefix(strings.TrimSpace(line), prefix); found {
			return strings.TrimSpace(rest), true
		}
	}
	return "", false
}

// describeDisk finds the block device of a directory in /sys (sysfs(5)): its name, and whether it rotates.
func describeDisk(dir string) (string, error) {
	var status unix.Stat_t
	if err := unix.Stat(dir, &status); err != nil {
		return "", fmt.Errorf("describe the disk: %w", err)
	}
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(status.Dev), unix.Minor(status.Dev)))
	if err != nil {
		return "", fmt.Errorf("describe the disk: %w", err)
	}
	// A partition has its queue's properties with its parent.
	for _, at := range []string{device, filepath.Dir(device)} {
		content, err := os.ReadFile(filepath.Join(at, "queue", "rotational"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("describe the disk: %w", err)
		}
		kind := "solid state"
		if strings.TrimSpace(string(content)) == "1" {
			kind = "rotating, or a virtual one that says so"
		}
		return filepath.Base(device) + " (" + kind + ")", nil
	}
	return filepath.Base(device), nil
}
