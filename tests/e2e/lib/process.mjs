// What the kernel says about a running binary.
import fs from 'node:fs';

export const residentBytes = (running) => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${running.child.pid}/status`, 'utf8'))[1]) * 1024;
export const descriptors = (running) => fs.readdirSync(`/proc/${running.child.pid}/fd`).length;

// User and system time so far.
export function processorSeconds(running) {
  const fields = fs.readFileSync(`/proc/${running.child.pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
