"use strict"

const result = document.querySelector("#result")
const input = document.querySelector("#upload input")
const most = Number(result.dataset.mostBytes)
let reading = null  // what stops the upload that is under way

function say(sentence, kind) {
  const line = document.createElement("div")
  line.className = kind
  line.textContent = sentence
  if (kind === "refusal") line.dataset.number = String(Math.random())
  result.replaceChildren(line)
}

// Sends the bytes of a file, neither its name nor its type. The earlier result goes first: it must never stand beside
// another radiograph.
async function read(file) {
  reading?.abort()
  const mine = reading = new AbortController()
  if (file.size > most) {
    say(`This file has ${(file.size / 2 ** 20).toFixed(1)} MiB. The maximum size is ${most / 2 ** 20} MiB.`, "refusal")
    return
  }
  say("The radiograph is being read. The result of an earlier file is gone.", "earlier")
  try {
    const answer = await fetch("radiograph", {
      method: "POST", body: file, headers: {"content-type": "application/octet-stream"}, signal: mine.signal,
    })
    if (answer.status === 401) location.reload()
    const text = await answer.text()
    if (mine !== reading) return
    if (answer.headers.get("content-type")?.startsWith("text/html")) result.innerHTML = text
    else say(text, "refusal")
  } catch {
    if (mine === reading) say("The connection to the server broke. Please choose the file again.", "refusal")
  }
}

input.addEventListener("change", () => {
  if (input.files.length) read(input.files[0])
  input.value = ""  // so that the same file can be chosen again
})
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault()
    document.body.classList.toggle("dropping", kind === "dragenter" || kind === "dragover")
    if (kind === "drop" && event.dataTransfer.files.length) {
      read(event.dataTransfer.files[0])
    }
  })
}
document.querySelector("#opacity input").addEventListener("input", (event) => {
  document.documentElement.style.setProperty("--map", event.target.value / 100)
})
document.querySelector("#regions input")?.addEventListener("change", (event) => {
  document.body.classList.toggle("regions-off", !event.target.checked)
})
