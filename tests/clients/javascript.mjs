// The official JavaScript clients, unmodified, against the gateway. Run by javascript.py.
// The address is the argument; two simulated nodes with llama3.2:3b and all-minilm stand behind it.
import assert from 'node:assert/strict'
import test from 'node:test'

import Anthropic from '@anthropic-ai/sdk'
import { Ollama } from 'ollama'
import OpenAI from 'openai'

const url = process.env.GATEWAY_URL
const model = 'llama3.2:3b'
const messages = [{ role: 'user', content: 'Why is the sky blue?' }]
const options = { num_predict: 8 }
const ollama = new Ollama({ host: url })
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused' })
const anthropic = new Anthropic({ baseURL: url, apiKey: 'unused' })

async function collect(stream) {
  const parts = []
  for await (const part of stream) parts.push(part)
  return parts
}

test('ollama: list, show, ps, load, unload', async () => {
  const names = (await ollama.list()).models.map((listed) => listed.name).sort()
  assert.deepEqual(names, ['all-minilm:latest', model])
  assert.equal((await ollama.show({ model })).details.format, 'gguf')
  await ollama.generate({ model, prompt: '', keep_alive: '5m' })
  let loaded = []
  while (loaded.length === 0) loaded = (await ollama.ps()).models
  assert.deepEqual(loaded.map((entry) => entry.name), [model])
  const unloaded = await ollama.generate({ model, prompt: '', keep_alive: 0 })
  assert.equal(unloaded.done_reason, 'unload')
})

test('ollama: chat, stream, abort, embed', async () => {
  const whole = await ollama.chat({ model, messages, options })
  const parts = await collect(await ollama.chat({ model, messages, options, stream: true }))
  assert.equal(parts.map((part) => part.message.content).join(''), whole.message.content)
  assert.equal(parts.at(-1).eval_count, 8)
  const endless = await ollama.generate({ model, prompt: 'go', stream: true, options: { num_predict: 100000 } })
  await assert.rejects(async () => {
    for await (const part of endless) if (!part.done) endless.abort()
  }, { name: 'AbortError' })
  const { embeddings } = await ollama.embed({ model: 'all-minilm', input: ['a', 'b'] })
  assert.equal(embeddings.length, 2)
  await assert.rejects(ollama.chat({ model: 'nope', messages }), /model 'nope' not found/)
})

test('ollama: pull with progress, copy, delete, create', async () => {
  const progress = await collect(await ollama.pull({ model: 'tiny', stream: true }))
  assert.equal(progress.at(-1).status, 'success')
  assert.ok(progress.some((part) => part.total > 0 && part.completed === part.total))
  await ollama.copy({ source: 'tiny', destination: 'tiny-copy' })
  const created = await ollama.create({ model: 'tiny-own', from: 'tiny', system: 'Be brief.' })
  assert.equal(created.status, 'success')
  const names = (await ollama.list()).models.map((listed) => listed.name)
  for (const name of ['tiny', 'tiny-copy', 'tiny-own']) {
    assert.ok(names.includes(`${name}:latest`), name)
    await ollama.delete({ model: name })
  }
  await assert.rejects(ollama.delete({ model: 'tiny' }), /not found/)
})

test('openai: models, chat, stream, embeddings, errors', async () => {
  const listed = await openai.models.list()
  assert.ok(listed.data.some((entry) => entry.id === model))
  const whole = await openai.chat.completions.create({ model, messages, max_tokens: 8 })
  const stream = await openai.chat.completions.create({ model, messages, max_tokens: 8, stream: true })
  const parts = await collect(stream)
  const text = parts.map((part) => part.choices[0]?.delta?.content ?? '').join('')
  assert.equal(text, whole.choices[0].message.content)
  const embedded = await openai.embeddings.create({ model: 'all-minilm', input: 'a' })
  assert.ok(embedded.data[0].embedding.length > 0)
  await assert.rejects(openai.chat.completions.create({ model: 'nope', messages }), { status: 404 })
})

test('openai: responses', async () => {
  const whole = await openai.responses.create({ model, input: 'hi', max_output_tokens: 8 })
  assert.ok(whole.output_text.length > 0)
  const events = await collect(await openai.responses.create({ model, input: 'hi', max_output_tokens: 8, stream: true }))
  assert.equal(events.at(-1).type, 'response.completed')
})

test('anthropic: messages and stream', async () => {
  const request = { model, messages, max_tokens: 8 }
  const whole = await anthropic.messages.create(request)
  const final = await anthropic.messages.stream(request).finalMessage()
  assert.equal(final.content[0].text, whole.content[0].text)
  await assert.rejects(anthropic.messages.create({ ...request, model: 'nope' }), { status: 404 })
})
