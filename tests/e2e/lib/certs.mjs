// Certificates made by the openssl command while the test runs.
import fs from 'node:fs';
import path from 'node:path';
import { execFileSync } from 'node:child_process';
import { tempDir } from './bullpen.mjs';

// A private CA `ca.pem`, and certificates of it: good, expired, for another name; one signed by itself and one by an unknown CA.
export function makeCerts() {
  const dir = tempDir({
    'good.cnf': 'subjectAltName=IP:127.0.0.1,DNS:localhost\n',
    'name.cnf': 'subjectAltName=DNS:elsewhere.example\n',
    'ca.cnf': '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\npolicy=p\nrand_serial=yes\nunique_subject=no\n[p]\ncommonName=supplied\n',
    'index.txt': '',
  });
  const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: 'ignore' });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  for (const name of ['ca', 'other', 'self']) openssl('req', '-x509', ...key, '-keyout', `${name}.key`, '-out', `${name}.pem`, '-days', '2', '-subj', `/CN=${name === 'self' ? 'localhost' : `test ${name}`}`);
  openssl('req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=localhost');
  const sign = (out, ca, ext) => openssl('x509', '-req', '-in', 'server.csr', '-CA', `${ca}.pem`, '-CAkey', `${ca}.key`, '-CAcreateserial', '-out', `${out}.pem`, '-days', '2', '-extfile', ext);
  sign('good', 'ca', 'good.cnf');
  sign('name', 'ca', 'name.cnf');
  sign('unknown', 'other', 'good.cnf');
  openssl('ca', '-batch', '-config', 'ca.cnf', '-in', 'server.csr', '-cert', 'ca.pem', '-keyfile', 'ca.key', '-out', 'expired.pem', '-startdate', '20200101000000Z', '-enddate', '20200201000000Z', '-extfile', 'good.cnf', '-notext');
  const read = (name) => fs.readFileSync(path.join(dir, name));
  const pair = (cert, k = 'server') => ({ key: read(`${k}.key`), cert: read(`${cert}.pem`) });
  return { dir, ca: path.join(dir, 'ca.pem'), good: pair('good'), expired: pair('expired'), name: pair('name'), unknown: pair('unknown'), self: pair('self', 'self') };
}
