// Kryden's own peers and client as children of the bench: their program is not ours, and is
// in the folder that the first argument names, built.  What a child does is told in
// peers/__init__.py; one child is either a peer (job "listen") or the client.
'use strict'

const fs = require('fs')
const http = require('http')
const { syncBuiltinESMExports } = require('module')
const path = require('path')
const readline = require('readline')
const { pathToFileURL } = require('url')

const LIFETIME_MS = 1200000
const CAPACITY_BYTES = 16 * 1024 ** 3

setTimeout(() => process.exit(1), LIFETIME_MS).unref()

// Its peers close what idles for five seconds, which its client, while it computes, does not see;
// then it takes them for gone.
const { createServer } = http
http.createServer = (...how) => {
  const server = createServer(...how)
  server.keepAliveTimeout = LIFETIME_MS
  return server
}
syncBuiltinESMExports()

const built = path.join(process.argv[2], 'dist')

function load(name) {
  return import(pathToFileURL(path.join(built, name)).href)
}

// In bytes of one local peer that has no disk.
const LOCAL_CAPACITY = 4 * 1024 ** 3
const SMALL = 16 * 1024

const made = new Map()
const peersById = new Map()
const offline = []
let authority = null
let client = null
let local = null

async function identity() {
  const { createPeerIdentity } = await load('swarm/identity.js')
  authority = createPeerIdentity()
  return { peerId: authority.peerId, publicKeyPem: authority.publicKeyPem }
}

async function listen({ id, folder, authority: trusted }) {
  const { startPeerRuntimeServer } = await load('swarm/peerRuntime.js')
  const server = await startPeerRuntimeServer({
    id,
    capacityBytes: CAPACITY_BYTES,
    storageDir: folder,
    trustedAuthorities: [{ id: trusted.peerId, role: 'coordinator', publicKeyPem: trusted.publicKeyPem }]
  })
  return server.url
}

async function connect({ peers }) {
  const { RemoteKrydenClient, RemotePeerClient, RemoteSwarm } = await load('swarm/remoteSwarm.js')
  const each = peers.map(url => new RemotePeerClient(url, { authority }))
  for (const peer of each) peersById.set((await peer.getRecord()).peerId, peer)
  client = new RemoteKrydenClient(new RemoteSwarm(each))
}

async function put({ path: source, required, total }) {
  const text = fs.readFileSync(source)
  const stored = await client.put(text, { dataShards: required, parityShards: total - required })
  const name = stored.manifest.contentId
  made.set(name, stored)
  return name
}

async function get({ capability, path: target }) {
  const { manifest, secret } = made.get(capability)
  fs.writeFileSync(target, await client.get(manifest, secret))
}

// Of an object: those who have these shares go away, and those who went before come back.
async function lose({ capability, numbers }) {
  for (const peer of offline.splice(0)) await peer.setOnline(true)
  let gone = 0
  for (const shard of made.get(capability).manifest.shards) {
    if (!numbers.includes(shard.index)) continue
    const peer = peersById.get(shard.peerId)
    await peer.setOnline(false)
    offline.push(peer)
    gone += shard.size
  }
  return gone
}

// Its own repair finds out what is lost, too.
async function repair({ capability, numbers }) {
  const stored = made.get(capability)
  const report = await client.repair(stored.manifest)
  if (report.repaired.length !== numbers.length || report.failed.length) {
    throw new Error(`not repaired: ${JSON.stringify(report.failed)}`)
  }
  stored.manifest = report.updatedManifest
}

// One object with shares of this size, for "audits": at its peers, or at one in this process.
async function fill({ size, remote }) {
  const config = { dataShards: 2, parityShards: 1 }
  const text = require('crypto').randomBytes(2 * size)
  if (remote) {
    made.set('audited', await client.put(text, config))
    return
  }
  const { KrydenClient } = await load('kryden.js')
  const { createLocalSwarm } = await load('swarm/localSwarm.js')
  local = new KrydenClient(createLocalSwarm(1, LOCAL_CAPACITY))
  made.set('audited', local.put(text, config))
}

// Audits of shares, so many objects at once.
async function audits({ seconds, inFlight, remote }) {
  const who = remote ? client : local
  const { manifest } = made.get('audited')
  const begun = process.hrtime.bigint()
  const passed = () => Number(process.hrtime.bigint() - begun) / 1e9
  let audited = 0
  const auditor = async () => {
    do {
      const results = await who.audit(manifest)
      if (!results.every(each => each.ok)) throw new Error('an audit failed')
      audited += results.length
    } while (passed() < seconds)
  }
  await Promise.all(Array.from({ length: inFlight }, auditor))
  return { audited, seconds: passed() }
}

let scheduler = null

// Objects that a scheduler looks after, at so many peers in this process.
async function track({ objects, peers, folder }) {
  const { KrydenClient } = await load('kryden.js')
  const { createLocalSwarm } = await load('swarm/localSwarm.js')
  const { BackgroundRepairScheduler } = await load('scheduler/backgroundRepairScheduler.js')
  const { SQLiteStateStore } = await load('state/store.js')
  const swarm = createLocalSwarm(peers, LOCAL_CAPACITY)
  const store = new SQLiteStateStore(path.join(folder, 'kryden.sqlite'))
  // Nothing of what it found before is to keep it from looking again.
  scheduler = new BackgroundRepairScheduler(swarm, store, { objectCooldownMs: 0 })
  const owner = new KrydenClient(swarm)
  for (let number = 0; number < objects; number++) {
    const text = require('crypto').randomBytes(SMALL)
    await scheduler.trackObject(owner.put(text, { dataShards: 6, parityShards: 3 }).manifest)
  }
}

// One pass over all of them, which finds nothing to repair.
async function pass({ objects }) {
  const begun = process.hrtime.bigint()
  const { run } = await scheduler.runOnce()
  const seconds = Number(process.hrtime.bigint() - begun) / 1e9
  if (run.metrics.objectsHealthy !== objects) throw new Error(JSON.stringify(run.metrics))
  return { seconds }
}

const jobs = { identity, listen, connect, put, get, lose, repair, fill, audits, track, pass }

readline
  .createInterface({ input: process.stdin })
  .on('line', async line => {
    let answer
    try {
      const { job, ...options } = JSON.parse(line)
      answer = { done: await jobs[job](options) }
      if (answer.done === undefined) answer.done = null
    } catch (err) {
      answer = { failed: String((err && err.stack) || err) }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  })
  .on('close', () => process.exit(0))
